"""The door: `tokenize` turns a corpus into shards that training maps into memory."""

from components.artifacts import Corpus, Shards, Tokenizer
from components.flow.node import Resources, stage
from components.flow.stage_run import StageRun
from components.shards.config import DataExecution, ShardsConfig

CPU_SHARE = 0.75
"""Part of the granted cores that the tokenizing actors hold; if they held all, Ray Data could wait for ever."""


@stage(version=1, resources=Resources(drives_ray=True))
def tokenize(config: ShardsConfig, corpus: Corpus, tokenizer: Tokenizer, run: StageRun) -> Shards:
    """Tokenize every split with a pool of actors and lay the tokens out in document order."""
    import math

    from components.corpus.blocks import on_actors, on_ray_data
    from components.shards.pack import Tokenizing, pack

    execution = run.execution if isinstance(run.execution, DataExecution) else DataExecution()
    actors = execution.actors or math.ceil(CPU_SHARE * run.cpus)
    cpus = min(1.0, math.floor(100 * CPU_SHARE * run.cpus / actors) / 100)
    result = pack(
        corpus.path,
        tokenizer.path,
        run.directory,
        config.shard_tokens,
        lambda work: on_actors(Tokenizing, (str(tokenizer.path),), work, min(actors, len(work)), cpus),
        on_ray_data,
        run.progress,
        {name: source.weight for name, source in corpus.sources.items()} if len(corpus.sources) > 1 else None,
    )
    return Shards(
        run.directory,
        result.digest,
        result.vocabulary_size,
        result.tokens,
        result.documents,
        result.text_bytes,
        result.sources,
    )

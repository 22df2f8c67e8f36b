"""The door: `tokenize` turns a corpus into shards that training maps into memory."""

import math

from components.artifacts import Corpus, Shards, Tokenizer
from components.flow.cost import Cost, Outlook
from components.flow.node import Resources, stage
from components.flow.stage_run import StageRun
from components.shards.config import DataExecution, ShardsConfig

CPU_SHARE = 0.75
"""Part of the granted cores that the tokenizing actors hold; if they held all, Ray Data could wait for ever."""


def actors_and_cpus(cores: float, actors: int | None = None) -> tuple[int, float]:
    """How many tokenizing actors `cores` bear, unless told, and how much of a core each holds."""
    actors = actors or math.ceil(CPU_SHARE * cores)
    return actors, min(1.0, math.floor(100 * CPU_SHARE * cores / actors) / 100)


TOKENIZE_BYTES_PER_SECOND = 4e6
"""Of one core: sentencepiece encoding, and laying the ids out."""


def _tokenize_cost(at: Outlook) -> Cost:
    """From the size of the corpus and the bytes a token holds."""
    corpus, tokenizer = at.inputs
    vocabulary, text_bytes = tokenizer["vocabulary_size"], corpus.get("text_bytes")
    if text_bytes is None:
        return Cost(expects={"vocabulary_size": vocabulary})
    tokens = {split: size / tokenizer["bytes_per_token"] for split, size in text_bytes.items()}
    disk_bytes = sum(tokens.values()) * (2 if vocabulary <= 1 << 16 else 4)
    return Cost(
        tokens=sum(tokens.values()),
        core_seconds=sum(text_bytes.values()) / TOKENIZE_BYTES_PER_SECOND,
        disk_bytes=disk_bytes,
        scratch_bytes=disk_bytes,
        expects={"vocabulary_size": vocabulary, "tokens": tokens},
    )


@stage(version=1, resources=Resources(drives_ray=True), cost=_tokenize_cost)
def tokenize(config: ShardsConfig, corpus: Corpus, tokenizer: Tokenizer, run: StageRun) -> Shards:
    """Tokenize every split with a pool of actors and lay the tokens out in document order."""
    from components.corpus.blocks import on_actors, on_ray_data
    from components.shards.pack import Tokenizing, pack

    execution = run.execution if isinstance(run.execution, DataExecution) else DataExecution()
    actors, cpus = actors_and_cpus(run.cpus, execution.actors)
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

"""The door: `tokenize` turns a corpus into shards that training maps into memory."""

from components.artifacts import Corpus, Shards, Tokenizer
from components.flow.cost import Cost, Outlook
from components.flow.node import Resources, stage
from components.flow.stage_run import StageRun
from components.shards.config import DataExecution, ShardsConfig

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
    """Tokenize every split, a row group a task, and lay the tokens out in document order."""
    from functools import partial

    from components.corpus.blocks import on_ray_data
    from components.shards.pack import pack

    execution = run.execution if isinstance(run.execution, DataExecution) else DataExecution()
    result = pack(
        corpus.path,
        tokenizer.path,
        run.directory,
        config.shard_tokens,
        partial(on_ray_data, workers=execution.workers),
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

"""The door: `collect` makes a corpus, `draw_pairs` draws prompt-completion pairs from it, `read_pairs` reads given."""

from components.artifacts import Corpus, Pairs
from components.corpus.config import CorpusConfig, PairsConfig
from components.corpus.pair_tables import table_identity, table_problems
from components.corpus.sources import source_identity, source_problems
from components.flow.cost import Cost, Outlook
from components.flow.node import Resources, stage
from components.flow.stage_run import StageRun

READ_BYTES_PER_SECOND = 8e6
"""Of one core: reading, filtering, hashing and writing source code."""
PROSE_BYTES_PER_SECOND = 1.5e5
"""Of one core: finding sentences in installed code, of which there are twenty bytes for one of prose."""
COMPRESSION = 0.3
"""Bytes on disk per byte of text."""
BYTES_PER_DOCUMENT = 4000
RECORD_BYTES = 350
"""Of memory for a document, in the process that decides on duplicates and splits."""
UNPACKED = 3
"""Bytes of text per byte of a packed file: Parquet, gzip, zstd."""


def _collect_cost(at: Outlook) -> Cost:
    """From the size of the sources, where it is known before reading."""
    config: CorpusConfig = at.config
    seconds = text_bytes = 0.0
    for name, part in config.parts().items():
        external = (at.external or {}).get(name, {}) if config.mixture else at.external or {}
        there = external["bytes"] + (UNPACKED - 1) * external["packed_bytes"] if external.get("bytes") else None
        size = min((size for size in (there, part.max_bytes) if size), default=None)
        if size is None:
            return Cost()
        speed = PROSE_BYTES_PER_SECOND if part.source == "prose" and part.path is None else READ_BYTES_PER_SECOND
        seconds, text_bytes = seconds + size / speed, text_bytes + size
    shares = {"validation": config.validation_share, "test": config.test_share}
    shares["train"] = 1 - sum(shares.values())
    return Cost(
        core_seconds=seconds,
        disk_bytes=COMPRESSION * text_bytes,
        scratch_bytes=text_bytes,
        memory={"working": int(text_bytes / BYTES_PER_DOCUMENT * RECORD_BYTES)},
        expects={"text_bytes": {split: share * text_bytes for split, share in shares.items()}},
    )


@stage(
    version=2,
    resources=Resources(drives_ray=True),
    external=source_identity,
    problems=lambda config, _: source_problems(config),
    cost=_collect_cost,
)
def collect(config: CorpusConfig, run: StageRun) -> Corpus:
    """Read, filter, deduplicate and split the documents of a source."""
    from components.corpus.blocks import on_ray_data
    from components.corpus.collect import collect_corpus

    result = collect_corpus(config, run.directory, on_ray_data, run.progress)
    for message in result.warnings:
        run.warn(message)
    return Corpus(run.directory, result.digest, result.documents, result.text_bytes, result.dropped, result.sources)


@stage(version=1, resources=Resources(cpus=1))
def draw_pairs(config: PairsConfig, corpus: Corpus, run: StageRun) -> Pairs:
    """Functions of the corpus as pairs: signature and docstring, then the rest of the body."""
    from components.corpus.pairs import write_pairs

    result = write_pairs(config, corpus.path, run.directory, run.progress)
    return Pairs(run.directory, result.digest, result.pairs)


@stage(
    version=1,
    resources=Resources(cpus=1),
    external=table_identity,
    problems=lambda config, _: table_problems(config),
    cost=lambda at: Cost(disk_bytes=(at.external or {}).get("bytes")),
)
def read_pairs(config: PairsConfig, run: StageRun) -> Pairs:
    """Rows of given files as pairs, in the splits that they come in."""
    from components.corpus.pair_tables import write_given_pairs

    result = write_given_pairs(config, run.directory, run.progress, run.warn)
    return Pairs(run.directory, result.digest, result.pairs)

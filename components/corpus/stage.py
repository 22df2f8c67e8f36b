"""The door: `collect` makes a corpus, `draw_pairs` draws prompt-completion pairs from it."""

from components.artifacts import Corpus, Pairs
from components.corpus.config import CorpusConfig, PairsConfig
from components.corpus.sources import source_identity, source_problems
from components.flow.node import Resources, stage
from components.flow.stage_run import StageRun


@stage(version=2, resources=Resources(drives_ray=True), external=source_identity, problems=source_problems)
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

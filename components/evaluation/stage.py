"""The door of the room: evaluation as stages."""

from components.artifacts import Checkpoint, Corpus, Evaluation, Pairs, Shards
from components.evaluation.config import EvaluationConfig
from components.flow.node import stage
from components.flow.stage_run import StageRun


@stage(version=1)
def evaluate(
    config: EvaluationConfig, checkpoint: Checkpoint, shards: Shards, corpus: Corpus, run: StageRun
) -> Evaluation:
    """Loss and top-1 of every head, bits per byte, and line completion, on the test split."""
    from components.evaluation.score import score_pretrained

    return score_pretrained(config, checkpoint, shards, corpus, run.directory, run.cpus, run.progress)


@stage(version=1)
def evaluate_finetuned(config: EvaluationConfig, checkpoint: Checkpoint, pairs: Pairs, run: StageRun) -> Evaluation:
    """Loss of every head on the completions of the test pairs, and generated completions against the true ones."""
    from components.evaluation.score import score_finetuned

    return score_finetuned(config, checkpoint, pairs, run.directory, run.cpus, run.progress)

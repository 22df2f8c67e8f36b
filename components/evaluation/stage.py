"""The door of the room: evaluation as stages."""

from components.artifacts import Checkpoint, Corpus, Evaluation, Pairs, Shards
from components.evaluation.config import EvaluationConfig
from components.flow.cost import Cost, Outlook
from components.flow.node import stage
from components.flow.stage_run import StageRun
from components.model.config import ModelConfig

LOGIT_BYTES = 64 << 20
"""Of the largest float32 logits at once (see heldout.LOGITS_AT_ONCE)."""


def _evaluate_cost(at: Outlook) -> Cost:
    """Forward passes over the held-out windows and the lines, in float32."""
    config: EvaluationConfig = at.config
    line = config.line_context_tokens + config.line_max_new_tokens
    return _scoring_cost(at, config.heldout_tokens + config.line_items * line)


def _evaluate_finetuned_cost(at: Outlook) -> Cost:
    """Forward passes over the completions, and the bodies generated, in float32."""
    config: EvaluationConfig = at.config
    return _scoring_cost(at, 2 * config.heldout_tokens + config.body_items * config.body_max_new_tokens)


def _scoring_cost(at: Outlook, tokens: int) -> Cost:
    config: EvaluationConfig = at.config
    model = ModelConfig(**at.inputs[0]["model"])
    positions = config.batch_size * config.context_length
    return Cost(
        tokens=tokens,
        flops=tokens * model.flops_per_token(config.context_length) / 3,
        memory={
            "parameters": 4 * model.n_parameters(),
            "activations": 4 * positions * (6 * model.dim + 3 * model.ffn_width) + 3 * LOGIT_BYTES,
        },
        on_gpu=at.gpus > 0,
    )


def _device(run: StageRun) -> str:
    return "cuda" if run.gpus else "cpu"


@stage(version=2, own_process=True, cost=_evaluate_cost)
def evaluate(
    config: EvaluationConfig, checkpoint: Checkpoint, shards: Shards, corpus: Corpus, run: StageRun
) -> Evaluation:
    """Loss and top-1 of every head, bits per byte, and line completion, on the test split."""
    from components.evaluation.score import score_pretrained

    return score_pretrained(config, checkpoint, shards, corpus, run.directory, run.cpus, _device(run), run.progress)


@stage(version=1, own_process=True, cost=_evaluate_finetuned_cost)
def evaluate_finetuned(config: EvaluationConfig, checkpoint: Checkpoint, pairs: Pairs, run: StageRun) -> Evaluation:
    """Loss of every head on the completions of the test pairs, and generated completions against the true ones."""
    from components.evaluation.score import score_finetuned

    return score_finetuned(config, checkpoint, pairs, run.directory, run.cpus, _device(run), run.progress)

"""`results.json`: every number of the page in full precision, for programs."""

import dataclasses
from typing import Any

from components.artifacts import CompletionScore, DecodingRow
from components.report.facts import Decoded, Facts, Model, known
from components.report.intervals import half_width_over_windows


def results(facts: Facts) -> dict[str, Any]:
    """All results as JSON values; what was not measured is null, never NaN."""
    return {
        "recipe": facts.config.recipe,
        "overrides": list(facts.config.overrides),
        "seconds": facts.seconds,
        "seconds_of_stages": {step.name: step.seconds for step in facts.steps},
        "reused_stages": [step.name for step in facts.steps if step.reused],
        "when": facts.when,
        "seeds": list(facts.seeds),
        "commit": facts.commit,
        "machine": facts.machine,
        "platform": facts.platform,
        "versions": dict(facts.versions),
        "corpus": _without_place(facts.corpus),
        "tokenizer": _without_place(facts.tokenizer),
        "shards": _without_place(facts.shards),
        "pairs": _without_place(facts.pairs),
        "models": [_model(model, facts.baseline(model.size)) for model in facts.pretrained],
        "finetuned": [_finetuned(model) for model in facts.finetuned],
        "decoding": [_decoding(decoded, row) for decoded in facts.decoded for row in decoded.benchmark.rows],
        "decoding_adaptive": [
            _decoding(decoded, row) for decoded in facts.decoded for row in decoded.benchmark.adaptive
        ],
    }


def _decoding(decoded: Decoded, row: DecodingRow) -> dict[str, Any]:
    where = {"size": decoded.size or None, "arrangement": decoded.arrangement or None}
    return where | {name: _plain(value) for name, value in dataclasses.asdict(row).items()}


def headline(facts: Facts) -> dict[str, float]:
    """The few numbers worth a line in the terminal and a column in MLflow."""
    numbers: dict[str, float | None] = {}
    for model in facts.pretrained:
        evaluation = model.evaluation
        if evaluation is not None:
            numbers[f"{model.key}/bits_per_byte"] = evaluation.bits_per_byte
            if evaluation.line_completion is not None:
                numbers[f"{model.key}/line_exact_match"] = evaluation.line_completion.exact_match
        best = facts.best_row(model)
        if best is not None:
            numbers[f"{model.key}/speedup"] = best.speedup
            numbers[f"{model.key}/tokens_per_forward"] = best.tokens_per_forward
    return {name: value for name, number in numbers.items() if (value := known(number)) is not None}


def _model(model: Model, base: Model | None) -> dict[str, Any]:
    checkpoint, evaluation = model.checkpoint, model.evaluation
    return {
        "key": model.key,
        "size": model.size or None,
        "n_future_tokens": model.n,
        "arrangement": model.shape.get("arrangement"),
        "extra_layers": model.shape.get("extra_layers", False),
        "parameters": checkpoint.parameters,
        "steps": checkpoint.steps,
        "tokens": checkpoint.tokens,
        "training_flops": checkpoint.training_flops,
        "training_seconds": checkpoint.training_seconds,
        "training_threads": checkpoint.training_threads,
        "bits_per_byte": known(evaluation.bits_per_byte) if evaluation else None,
        "bits_per_byte_difference_half_width": (
            half_width_over_windows(model.windows, base.windows) if base and base is not model else None
        ),
        "heldout_tokens": evaluation.tokens if evaluation else None,
        "heads": _heads(model),
        "line_completion": _completion(evaluation.line_completion) if evaluation else None,
    }


def _finetuned(model: Model) -> dict[str, Any]:
    checkpoint, evaluation = model.checkpoint, model.evaluation
    body = evaluation.body_completion if evaluation else None
    return {
        "size": model.size or None,
        "arrangement": model.shape.get("arrangement"),
        "n_pretrained": checkpoint.n_pretrained,
        "n_future_tokens": model.n,
        "loss": known(evaluation.heads[0].loss) if evaluation else None,
        "edit_similarity": known(body.edit_similarity) if body else None,
        "exact_match": known(body.exact_match) if body else None,
        "items": body.items if body else None,
        "heads": _heads(model),
        "steps": checkpoint.steps,
        "training_seconds": checkpoint.training_seconds,
        "training_threads": checkpoint.training_threads,
    }


def _heads(model: Model) -> list[dict[str, float | None]]:
    heads = model.evaluation.heads if model.evaluation else ()
    return [{"loss": known(head.loss), "top1": known(head.top1)} for head in heads]


def _completion(score: CompletionScore | None) -> dict[str, Any] | None:
    return {name: _plain(value) for name, value in dataclasses.asdict(score).items()} if score else None


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return known(value)
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _without_place(artifact: Any) -> Any:
    return {name: value for name, value in artifact.items() if name != "path"} if artifact else None

"""The parts of the page on what was written: fine-tuned models, and completed lines."""

from components.report.facts import Facts
from components.report.markup import Markup, decimal, duration, paragraph, percent, section, table, tag, whole

SHOWN_COMPLETIONS = 4


def finetuning(facts: Facts, words_of_the_paper: str) -> Markup | None:
    """Fine-tuned models against each other."""
    if not facts.finetuned:
        return None
    rows = []
    for model in facts.finetuned:
        evaluation, body = model.evaluation, model.evaluation.body_completion if model.evaluation else None
        rows.append(
            [
                model.name,
                decimal(evaluation.heads[0].loss if evaluation else None, 4),
                percent(evaluation.heads[0].top1 if evaluation else None),
                decimal(body.edit_similarity if body else None, 3),
                percent(body.exact_match if body else None),
                duration(model.checkpoint.training_seconds),
            ]
        )
    scored = next((m.evaluation for m in facts.finetuned if m.evaluation), None)
    body = scored.body_completion if scored else None
    task, what, several = "from signature and docstring to the body", "Body", "bodies"
    if facts.given_pairs:
        task, what, several = "from a given prompt to its completion", "Completion", "completions"
    size = f" Loss on {whole(scored.tokens)} {what.lower()} tokens" if scored else ""
    size += f", similarity over {body.items} generated {several}." if body else "." if size else ""
    return section(
        "finetuning",
        f"Fine-tuned: {task}",
        table(
            ["Heads: pretrained → fine-tuned", f"{what} loss", "Top-1", "Edit similarity", "Exact", "Training time"],
            rows,
        ),
        paragraph(f"Test pairs only.{size}", class_="caption"),
        paragraph(words_of_the_paper, class_="caption"),
    )


def completions(facts: Facts) -> Markup | None:
    """What the models, of a scaling study the largest, wrote for the same cut lines."""
    models = facts.by_size[-1]
    by_model = [(m, {item["id"]: item for item in m.completions}) for m in models]
    ids = [name for name in by_model[0][1] if all(name in items for _, items in by_model)] if by_model else []
    if not ids:
        return None
    figures = []
    for name in ids[:: max(1, len(ids) // SHOWN_COMPLETIONS)][:SHOWN_COMPLETIONS]:
        item = by_model[0][1][name]
        lines = [_written("true", item["truth"], None)]
        for model, items in by_model:
            made = items[name]["generated"]
            lines.append(_written(model.heads, made, "same" if made == item["truth"] else None))
        before = "\n".join(item["prompt"].split("\n")[-3:])
        class_ = "completion named" if any(model.arrangement for model in models) else "completion"
        figures.append(tag("figure", tag("pre", before, tag("span", "▏", class_="cut")), *lines, class_=class_))
    return section(
        "completions",
        f"Lines that the models of size {models[0].size} completed" if models[0].size else "Lines they completed",
        *figures,
        paragraph(
            f"{len(figures)} of {len(ids)} lines, taken at equal distances in the list, not chosen.", class_="caption"
        ),
    )


def _written(who: str, text: str, class_: str | None) -> Markup:
    return tag("div", tag("span", who, class_="who"), tag("code", text or " ", class_=class_))

"""The parts of the page on where things come from: the paper's findings beside ours, the data, and how to repeat it."""

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from components.artifacts import SPLITS
from components.report import paper
from components.report.facts import Facts, Model
from components.report.markup import (
    Markup,
    decimal,
    duration,
    paragraph,
    percent,
    section,
    size,
    table,
    tag,
    times,
    whole,
)


def beside_the_paper(facts: Facts) -> Markup | None:
    """The paper's findings on quality and cost, ours, and whether the two compare."""
    cards = list(_cards(facts))
    if not cards:
        return None
    return section(
        "paper",
        "Beside the paper",
        *(
            tag(
                "div",
                tag("h4", name),
                facts_list({"Paper": theirs, "Here": ours, "Comparable": word}),
            )
            for name, theirs, ours, word in cards
        ),
        paragraph(
            "Gloeckle, Youbi Idrissi, Rozière, Lopez-Paz, Synnaeve: Better & Faster Large Language Models via "
            "Multi-token Prediction, 2024, arXiv 2404.19737. Its decoding figures stand with ours above.",
            class_="caption",
        ),
    )


def _cards(facts: Facts) -> Iterator[tuple[str, str, str, str]]:
    largest = max(m.checkpoint.parameters for m in facts.pretrained)
    pairs = [(m, base) for m in facts.pretrained if (base := facts.baseline(m.size)) not in (None, m)]
    if not pairs:
        return
    on_bytes = (facts.tokenizer or {}).get("kind") == "bytes"
    bits = [f"{decimal(m.evaluation.bits_per_byte, 4)} with {m.name}" for m in facts.pretrained if m.evaluation]
    if len(bits) > 1:
        yield (
            "Quality",
            paper.QUALITY_BYTES if on_bytes else paper.QUALITY_TOKENS,
            f"Bits per byte: {', '.join(bits)}.",
            "The direction alone. Loss is not pass@k"
            + (", and these models and their data are smaller by orders of magnitude." if largest < 1e8 else "."),
        )
    costs = [
        _cost(m, base)
        for m, base in pairs
        if base and base.checkpoint.training_seconds and base.checkpoint.training_flops
    ]
    if costs:
        yield (
            "What training costs",
            paper.COST,
            f"{'; '.join(costs)}.",
            "Not in size. Every head passes through the unembedding, which is a large part of a small model and "
            "next to nothing of a large one.",
        )


def _cost(model: Model, base: Model) -> str:
    """Time and FLOPs of a training over those of its baseline."""
    made, theirs = model.checkpoint, base.checkpoint
    flops = f"{times(made.training_flops / theirs.training_flops)} the FLOPs of {base.name}"
    if made.training_threads != theirs.training_threads:
        return f"{model.name} takes {flops} (on another number of threads, so that times do not compare)"
    return f"{model.name} takes {times(made.training_seconds / theirs.training_seconds)} the time and {flops}"


def data(facts: Facts) -> Markup | None:
    """Corpus, tokenizer and shards in numbers."""
    corpus, tokenizer, shards = facts.corpus, facts.tokenizer, facts.shards
    if corpus is None:
        return None
    used = shards or corpus  # a mixture leaves documents of the corpus out
    rows = [
        [
            split,
            whole(used["documents"].get(split, 0)),
            size(used["text_bytes"].get(split, 0)),
            whole(shards["tokens"].get(split, 0)) if shards else "",
        ]
        for split in SPLITS
    ]
    listed: dict[str, str] = {}
    if tokenizer:
        tried, failed = tokenizer["round_trip_documents"], tokenizer["round_trip_failures"]
        listed["Tokenizer"] = f"{tokenizer['kind']}, {whole(tokenizer['vocabulary_size'])} symbols"
        listed["Bytes per token"] = f"{decimal(tokenizer['bytes_per_token'], 3)} on the validation split"
        listed["Round trip"] = (
            f"all {whole(tried)} validation documents tried come back exactly"
            if not failed
            else f"{whole(failed)} of {whole(tried)} validation documents do NOT come back exactly"
        )
    if facts.pairs:
        pairs = (f"{whole(facts.pairs['pairs'].get(split, 0))} {split}" for split in SPLITS)
        listed["Fine-tuning pairs"] = ", ".join(pairs)
    return section(
        "data",
        "The data",
        table(["Split", "Documents", "Text", "Tokens"], rows),
        _mixture(shards["sources"]) if shards and shards.get("sources") else None,
        facts_list(listed),
        _dropped(corpus["dropped"]),
    )


def _mixture(sources: Mapping[str, Any]) -> Markup:
    """The parts of a mixture: what was asked for, what came of it, and what was left out for its sake."""
    total = {split: sum(source["tokens"][split] for source in sources.values()) for split in SPLITS}
    rows = []
    for name, source in sources.items():
        shares = [percent(source["tokens"][split] / total[split]) for split in SPLITS]
        left = sum(source["documents_left_out"].values())
        rows.append(
            [
                name,
                percent(source["weight"]),
                *shares,
                whole(sum(source["documents"].values())),
                f"{whole(left)} documents, {size(sum(source['text_bytes_left_out'].values()))}" if left else "none",
            ]
        )
    return tag(
        "div",
        tag("h4", "The mixture, in tokens"),
        table(["Source", "Asked for", *(f"Of {split}" for split in SPLITS), "Documents", "Left out"], rows),
        paragraph(
            "No document is repeated: the source that is scarcest for its weight came in as far as whole documents "
            "allow, of the others documents were left out in an order given by hash.",
            class_="caption",
        ),
    )


def _dropped(dropped: Mapping[str, int]) -> Markup:
    total = sum(dropped.values())
    if not total:
        return paragraph("No document was left out.")
    reasons = sorted(dropped.items(), key=lambda item: -item[1])
    return tag(
        "div",
        tag("h4", f"Left out: {whole(total)} documents"),
        table(
            ["Reason", "Documents", "Share"],
            [[reason.replace("_", " "), whole(count), percent(count / total)] for reason, count in reasons],
        ),
    )


def warnings(facts: Facts) -> Markup | None:
    """What the stages warned of, whether they ran for this page or before."""
    said = [tag("li", f"{step.title}: {words}") for step in facts.steps for words in step.warnings]
    return section("warnings", "To read with care", tag("ul", *said)) if said else None


def again(facts: Facts) -> Markup:
    """The command that makes this page again, and what made it."""
    command = ["python", "pipelines/full.py", *facts.config.overrides]
    listed = {
        "Machine": facts.machine,
        "System": facts.platform,
        "Took": f"{duration(facts.seconds)} from command to page; "
        f"{duration(sum(step.seconds for step in facts.steps))} in stages, reused ones counted as when they ran",
        "Seed": ", ".join(map(str, facts.seeds)),
        "Code": facts.commit or "",
        "Versions": ", ".join(f"{name} {version}" for name, version in facts.versions.items()),
        "Numbers": "results.json beside this page, in full precision",
    }
    return section(
        "again",
        "Make it again",
        tag("pre", shlex.join(command), class_="command"),
        facts_list({name: value for name, value in listed.items() if value}),
    )


def facts_list(listed: Mapping[str, Any]) -> Markup:
    """Names and what there is to say of each."""
    return tag("dl", *(part for name, value in listed.items() for part in (tag("dt", name), tag("dd", str(value)))))

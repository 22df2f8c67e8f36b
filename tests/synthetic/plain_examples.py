"""Examples as plain lists, and chance; run as a program, it prints what tasks make in a process of its own."""

import hashlib
import json
from collections.abc import Sequence

import torch

from components.synthetic.config import InductionConfig, PathStarConfig, PolynomialConfig, TaskConfig
from components.synthetic.examples import Examples
from components.synthetic.tasks import task_of

TASKS: dict[str, TaskConfig] = {
    "induction": InductionConfig(names=40, first_tokens=10, second_tokens=12, words=20, successors=3, sentences=6),
    "polynomials": PolynomialConfig(operations=4, test_operations=6, pauses=2),
    "path_star": PathStarConfig(arms=3, edges=3, nodes=12),
}
STEPS = [(1, 0), (1, 1), (1, 7), (2, 0), (2, 1), (0, 1)]
"""Of (seed, step)."""


def written(examples: Examples) -> list[list[int]]:
    """The tokens of every example, nothing behind its end."""
    return [row[:n].tolist() for row, n in zip(examples.tokens_EL, examples.length_E, strict=True)]


def p_value(counts: Sequence[float], shares: Sequence[float]) -> float:
    """Pearson's chi-square test: how often counts from these shares would be as far off as `counts`, or further."""
    observed, share = (torch.tensor(list(values), dtype=torch.float64) for values in (counts, shares))
    expected = observed.sum() * share / share.sum()
    assert expected.min() >= 5, "too few for the test"
    statistic = ((observed - expected) ** 2 / expected).sum()
    return float(torch.special.gammaincc(torch.tensor((len(counts) - 1) / 2, dtype=torch.float64), statistic / 2))


def digest(examples: Examples) -> str:
    parts = (examples.tokens_EL, examples.length_E, examples.counted_EL)
    return hashlib.sha256(b"".join(str(part.shape).encode() + part.tobytes() for part in parts)).hexdigest()


def digests(backwards: bool = False) -> dict[str, str]:
    """Of training's steps and of the tests of all tasks."""
    asked = [(name, at) for name in TASKS for at in (*STEPS, "test")]
    found = {}
    for name, at in asked[::-1] if backwards else asked:
        task = task_of(TASKS[name])
        if at == "test":
            found |= {f"{name} {part.name}": digest(part.examples) for part in task.test(20)}
        else:
            seed, step = at
            found[f"{name} {seed} {step}"] = digest(task.examples(seed, step, 500))
    return found


if __name__ == "__main__":
    print(json.dumps(digests(backwards=True)))

"""Figures of Gloeckle et al. 2024 (arXiv 2404.19737) that ours are set beside. Not measured here; table by table."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Decoding:
    """Self-speculative greedy decoding of one of the paper's 7B models, by k: (tokens per forward, speed-up)."""

    table: str
    model: str
    setting: str
    by_k: Mapping[int, tuple[float, float]]


CODE = Decoding(
    "Table S2",
    "7B code model, n = 4, 1T tokens",
    "4,200 prompts of 512 tokens, batch 42",
    {1: (1.00, 1.00), 2: (1.94, 1.85), 3: (2.78, 2.54), 4: (3.50, 3.05)},
)
BYTES = {
    8: Decoding(
        "Table S3",
        "7B byte model, n = 8",
        "4,096 prompts of 1,024 bytes of code, batch 16",
        {1: (1.00, 1.00), 2: (1.98, 1.94), 4: (3.84, 3.67), 8: (7.04, 6.39)},
    ),
    16: Decoding(
        "Table S3",
        "7B byte model, n = 16",
        "4,096 prompts of 1,024 bytes of code, batch 16",
        {1: (1.00, 1.00), 2: (1.98, 1.94), 4: (3.81, 3.63), 8: (6.92, 6.25), 12: (9.36, 8.07), 16: (11.20, 9.24)},
    ),
    32: Decoding(
        "Table S3",
        "7B byte model, n = 32",
        "4,096 prompts of 1,024 bytes of code, batch 16",
        {
            1: (1.00, 1.00),
            2: (1.97, 1.93),
            4: (3.80, 3.62),
            8: (6.89, 6.22),
            12: (9.30, 8.01),
            16: (11.15, 9.15),
            20: (12.61, 9.83),
            24: (13.67, 10.34),
            28: (14.58, 10.55),
            32: (15.35, 10.84),
        },
    ),
}


PASS_AT_1 = {
    "0.3B": {1: (1.8, 1.9), 2: (1.7, 1.5), 4: (1.0, 1.2)},
    "0.6B": {1: (4.7, 2.9), 2: (4.6, 3.2), 4: (3.0, 2.7)},
    "1.3B": {1: (6.8, 4.6), 2: (7.3, 5.4), 4: (7.4, 4.8)},
    "3B": {1: (11.1, 7.2), 2: (11.8, 8.0), 4: (12.7, 7.2)},
    "6.7B": {1: (23.9, 12.8), 2: (24.7, 13.2), 4: (26.0, 13.8)},
    "13B": {1: (26.0, 14.1), 2: (30.5, 15.2), 4: (30.5, 15.8)},
}
"""Table S7: pass@1 in % on MBPP and HumanEval, by size and n."""


ARRANGEMENTS = {
    "": (30.0, 22.8),
    "linear": (33.6, 21.9),
    "anticausal": (30.8, 20.9),
    "causal": (31.9, 20.9),
    "parallel": (33.8, 24.0),
    "parallel_extra_layers": (33.3, 22.4),
}
"""Table S4: pass@1 in % on MBPP and HumanEval of n = 1 and of n = 4 by arrangement."""
ARRANGEMENTS_OF = "Table S4, pass@1 of 7B models with n = 1 and 4 after 200B tokens of code"


def decoding_for(n: int, kind: str | None) -> Decoding:
    """The paper's model nearest to one with n heads on a tokenizer of this kind."""
    return BYTES[min(BYTES, key=lambda published: abs(published - n))] if kind == "bytes" else CODE


QUALITY_TOKENS = (
    "Table S7: with n = 4 instead of 1, pass@1 on MBPP goes from 1.8 to 1.0 at 0.3B parameters, from 11.1 to 12.7 "
    "at 3B and from 26.0 to 30.5 at 13B. Below about 1B more heads cost quality, from 3B on they add to it."
)
QUALITY_BYTES = (
    "Table 1: on bytes at 7B, n = 8 instead of 1 takes pass@1 on MBPP from 19.3 to 32.3 and on HumanEval from 18.1 "
    "to 21.8."
)
COST = (
    "Table S5: n = 4 trains in 1.22 times the time of n = 1 at 0.3B parameters and in 1.09 times at 13B; the cause "
    "given is lost overlap of communication, not arithmetic."
)
FINETUNING = (
    "Section 3.6 (CodeContests, 7B): both models pretrained with n = 4 beat the next-token model at every k of "
    "pass@k; fine-tuned with one head (4 → 1) is best. A figure only, without a table."
)
SUMMARIZATION = (
    "Table S9 (7B, eight summarization data sets): ROUGE-L F1 is on average 26.23 with n = 1 after 200B tokens, 0.51 "
    "more with n = 2 and 0.46 more with n = 4; after 500B tokens 27.08, 0.28 and 0.31 more."
)


INDUCTION = {
    "1m": {1: 0.03, 2: 0.14},
    "3m": {1: 0.15, 2: 0.25},
    "10m": {1: 0.25, 2: 0.37},
    "30m": {1: 0.37, 2: 0.45},
    "1b": {1: 0.48, 2: 0.47},
}
"""Figure 7: second tokens of names told right, by parameters without embeddings; from descriptions of the figure, to
some hundredths. For 100M and 300M they go against the text."""
FROM_100M = "From 100M on, where these disagree, n = 2 is slightly worse by the paper's text (section 4.1)."
POLYNOMIALS = {
    1: {1: (0.90, 0.84), 2: (1.00, 0.88), 4: (1.00, 0.84)},
    2: {1: (0.70, 0.60), 2: (0.77, 0.67), 4: (0.81, 0.63)},
    3: {1: (0.50, 0.37), 2: (0.56, 0.50), 4: (0.61, 0.43)},
    4: {1: (0.30, 0.22), 2: (0.38, 0.38), 4: (0.43, 0.29)},
    5: {1: (0.19, 0.13), 2: (0.25, 0.25), 4: (0.29, 0.18)},
    6: {1: (0.08, 0.04), 2: (0.13, 0.11), 4: (0.16, 0.09)},
}
"""Figure 8: answers told right by number of operations and n, of two runs of 100M models; measured on the figure's
image, to 1.5 points."""
POLYNOMIALS_30M = {
    1: {1: 0.85, 2: 0.90, 4: 0.88},
    2: {1: 0.60, 2: 0.65, 4: 0.68},
    3: {1: 0.38, 2: 0.45, 4: 0.48},
    4: {1: 0.25, 2: 0.30, 4: 0.33},
    5: {1: 0.15, 2: 0.20, 4: 0.22},
    6: {1: 0.05, 2: 0.10, 4: 0.12},
}
"""Figure S16: the same of 30M models, means; from descriptions of the figure, to some hundredths."""
SYNTHETIC_SIZES = {
    "1m": 1.3e6,
    "3m": 3.4e6,
    "10m": 10.6e6,
    "30m": 34.1e6,
    "100m": 99.1e6,
    "300m": 321e6,
    "1b": 1.02e9,
}
"""Table S14: parameters without embeddings."""


INDUCTION_BOOKS = {
    "1m": {1: 0.85, 2: 0.875},
    "3m": {1: 0.925, 2: 0.975},
    "10m": {1: 0.99, 2: 0.99},
    "30m": {1: 0.99, 2: 0.99},
    "100m": {1: 1.0, 2: 1.0},
    "300m": {1: 1.0, 2: 1.0},
    "1b": {1: 1.0, 2: 1.0},
}
"""Figure S14: the same after training on books and stories, nine tokens to one; read off as Figure 7."""
BY_SIZE = {"Figure 7": INDUCTION, "Figure S14": INDUCTION_BOOKS}
"""Figures of second tokens of names by size and n."""


def synthetic(figure: str, size: str, n: int, metric: str) -> float | None:
    """What a figure has for a metric of a grid, by the size's name; None where it has nothing. Figure 8 stands for S16,
    too; of the former, means of two runs."""
    if metric == "accuracy" and figure in BY_SIZE:
        return BY_SIZE[figure].get(size, {}).get(n)
    if metric.startswith("accuracy/m") and figure == "Figure 8":
        m = int(metric.removeprefix("accuracy/m"))
        runs = POLYNOMIALS.get(m, {}).get(n)
        means = {"30m": POLYNOMIALS_30M.get(m, {}).get(n), "100m": sum(runs) / len(runs) if runs else None}
        return means.get(size)
    return None

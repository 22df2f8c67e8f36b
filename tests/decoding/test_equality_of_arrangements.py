"""The benchmark's check of losslessness: which models, how many tokens, and that it looks at accepted drafts."""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from components.decoding import arrangements, checks
from components.decoding.arrangements import CHECKED, equality_of_arrangements, model_with_runs
from components.decoding.checks import full_forward_mismatches
from components.decoding.engine import Decoder

NAMES = ["parallel", "causal", "anticausal", "linear", "replicated"]


def test_all_arrangements_in_both_dtypes_and_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrangements, "PROMPTS", 3)
    monkeypatch.setattr(arrangements, "WIDE", replace(CHECKED[0], dim=256, n_attention_heads=4))
    *found, wide = equality_of_arrangements(0.05, 0, "cpu", wide=True)
    assert (wide["width"], wide["dtype"], wide["mode"]) == (256, "bfloat16", "row-invariant")
    assert wide["tokens"] > 0
    assert wide["differences"] == []
    assert [(row["arrangement"], row["dtype"], row["mode"]) for row in found] == [
        (name, dtype, mode) for name in NAMES for dtype in ("float32", "bfloat16") for mode in ("row-invariant", "fast")
    ]
    for row in found:
        assert row["tokens"] > 3 * (row["n_future_tokens"] + 1)
        if row["mode"] == "row-invariant":
            assert row["differences"] == []
            assert row["row_noise"] == 0
        assert row["explained"]


@pytest.mark.parametrize("config", CHECKED, ids=NAMES)
def test_drafts_are_right_now_and_then_and_full_forwards_agree(config: Any) -> None:
    """With plain random weights hardly any is, and what follows an accepted draft would not be looked at."""
    model = model_with_runs(config, 0, "cpu")
    generator = torch.Generator().manual_seed(0)
    prompts = [
        torch.randint(config.vocabulary_size, (length,), generator=generator).tolist() for length in range(8, 16)
    ]
    made = Decoder(model).generate(prompts, 80, k=config.n_future_tokens, batch=4)
    assert not full_forward_mismatches(model, prompts, made.tokens)
    accepted = [count for step in made.steps for count in step.accepted]
    assert min(accepted) == 0
    assert max(accepted) == config.n_future_tokens - 1
    assert 1.2 < made.tokens_per_forward < 0.8 * config.n_future_tokens
    assert len({token for row in made.tokens for token in row}) > 20


def test_a_whole_check_is_of_more_than_100_000_tokens_and_refills_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """In each dtype, counted without making them: an engine that emits noughts, and one that errs once."""
    batches = set()

    class Noughts:
        def __init__(self, model: Any, dtype: torch.dtype, row_invariant: bool) -> None:
            self.model, self.wrong = model, model.config.arrangement == "linear" and row_invariant

        def generate(self, prompts: Sequence[Any], limits: Any, k: Any = 1, batch: int = 1) -> SimpleNamespace:
            batches.add((batch, len(prompts)))
            tokens = [[0] * limit for limit in (limits if isinstance(limits, list) else [limits])]
            tokens[-1][-1] = int(self.wrong and k == 3 and batch == 16)
            return SimpleNamespace(tokens=tokens, tokens_per_forward=1.0)

    monkeypatch.setattr(checks, "Decoder", Noughts)
    monkeypatch.setattr(checks, "row_noise", lambda *_: 0.0)
    monkeypatch.setattr(checks, "_margin", lambda *_: 0.5)
    found = equality_of_arrangements(1.0, 0, "cpu")
    for dtype in ("float32", "bfloat16"):
        tokens = {mode: sum(r["tokens"] for r in found if r["dtype"] == dtype and r["mode"] == mode) for mode in
                  ("row-invariant", "fast")}  # fmt: skip
        assert 100_000 <= tokens["row-invariant"] < 150_000
        assert tokens["fast"] == pytest.approx(tokens["row-invariant"] / 4, rel=0.1)
    assert batches == {(1, 1), (1, 2), (4, 6), (16, 24)}
    wrong = [row for row in found if row["differences"]]
    assert [(row["arrangement"], row["dtype"]) for row in wrong] == [("linear", "float32"), ("linear", "bfloat16")]
    assert [(d["k"], d["batch"], d["prompt"]) for d in wrong[0]["differences"]] == [(3, 16, 23)]
    assert not wrong[0]["explained"]

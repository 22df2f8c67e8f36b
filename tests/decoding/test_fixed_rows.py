"""Rows that stay in place, as captured graphs need them: the same tokens as with rows that move up, and steps that a
graph can hold."""

import random
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from components.decoding import loop as loop_module
from components.decoding import room
from components.decoding.draft_length import DraftLength, Experience
from components.decoding.engine import Decoder
from components.decoding.graphs import Graphs
from components.decoding.loop import Loop
from components.decoding.sampling import Sampling
from components.model.config import ModelConfig
from components.model.transformer import MultiTokenTransformer

ARRANGEMENTS = ["parallel", "causal", "anticausal", "linear", "replicated"]


def sharp_model(arrangement: str, n: int = 4) -> MultiTokenTransformer:
    """Weights so large that choices depend on every token before."""
    config = ModelConfig(
        dim=32, layers=6, n_attention_heads=4, vocabulary_size=50, n_future_tokens=n, arrangement=arrangement  # type: ignore[arg-type]
    )  # fmt: skip
    model = MultiTokenTransformer(config)
    model.init_weights(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(8)
    return model.eval()


def prompts_of(count: int) -> list[list[int]]:
    generator = random.Random(2)
    return [[generator.randrange(50) for _ in range(generator.randint(1, 12))] for _ in range(count)]


LIMITS = [1, 20, 7, 33, 12, 40, 2, 15, 28]


def both(arrangement: str, **how: Any) -> None:
    model, prompts = sharp_model(arrangement), prompts_of(len(LIMITS))
    moving, fixed = (Decoder(model, row_invariant=True, fixed_rows=f).generate(prompts, LIMITS, **how) for f in (0, 1))
    assert fixed.tokens == moving.tokens
    assert [sum(runs) for runs in fixed.runs] == list(map(len, fixed.tokens))
    if how["k"] != "adaptive":
        assert fixed.runs == moving.runs


@pytest.mark.parametrize("batch", [1, 3, 9])
@pytest.mark.parametrize("k", [1, 2, 4, "adaptive"])
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_rows_that_stay_give_the_same_tokens(arrangement: str, k: Any, batch: int) -> None:
    """Rows empty and full beside each other, prompts that take an ended one's place, limits of all lengths."""
    both(arrangement, k=k, batch=batch)
    both(arrangement, k=k, batch=batch, stop_ids={3, 4, 5, 6, 7})


@pytest.mark.parametrize("arrangement", ["parallel", "anticausal"])
def test_a_rule_of_the_caller_ends_rows_that_stay(arrangement: str) -> None:
    both(arrangement, k=3, batch=4, stop=lambda row, tokens: sum(tokens) % 11 == row % 3)


@pytest.mark.parametrize("arrangement", ["parallel", "linear"])
def test_rows_that_stay_draw_the_same(arrangement: str) -> None:
    ways = [Sampling(), Sampling(0.7, seed=5), Sampling(1.3, top_k=9, top_p=0.8, seed=6)] * 3
    both(arrangement, k=3, batch=4, sampling=ways)


def test_drawn_acceptance_runs_several_steps_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """With limits alone, the device is asked every few steps only, and every step is counted."""
    looks = []
    look = Loop._look
    monkeypatch.setattr(Loop, "_look", lambda self, whole, k: looks.append(len(whole)) or look(self, whole, k))
    decoder = Decoder(sharp_model("parallel"), fixed_rows=True)
    made = decoder.generate([[1], [2, 3]], 60, k=4, draw_accepted=lambda rows, k: torch.full((rows,), k - 2))
    assert max(looks) == loop_module.MOST_STEPS_AHEAD
    assert sum(looks) == len(made.steps)
    assert {count for step in made.steps for count in step.accepted} == {2}


def test_told_of_every_step_where_somebody_listens() -> None:
    heard: list[int] = []
    decoder = Decoder(sharp_model("parallel"), fixed_rows=True)
    made = decoder.generate([[1]], 30, k=3, on_step=lambda news: heard.append(len(news[0])))
    assert heard == made.runs[0]


class OnlyOnTheDevice(TorchDispatchMode):
    """Refuses what a captured graph cannot hold: values read by the host, and tensors that come from it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        assert "_local_scalar_dense" not in name, "the host reads a value"
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, kwargs, made)):
            if isinstance(tensor, torch.Tensor) and tensor.dim():
                assert tensor.device.type == "meta", f"{name} has a tensor on {tensor.device}"
        return made


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_a_step_can_be_captured(
    arrangement: str, at_once: bool, sampled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run with tensors that have a shape but no content, by the code that GPUs take: whatever would read one fails."""
    if at_once and arrangement == "replicated":
        pytest.skip("replicated heads have no unembedding in common")
    monkeypatch.setattr(room, "free_bytes", lambda device: None)
    config = ModelConfig(
        dim=64, layers=6, n_attention_heads=4, n_kv_heads=2, vocabulary_size=2000, n_future_tokens=4,
        arrangement=arrangement,  # type: ignore[arg-type]
    )  # fmt: skip
    ways = [Sampling(0.8, top_k=5) if sampled else Sampling()] * 3
    with torch.device("meta"), torch.inference_mode():
        decoder = Decoder(MultiTokenTransformer(config), torch.bfloat16, row_invariant=False, fixed_rows=True)
        loop = Loop(
            decoder.network, [[1, 2, 3]] * 3, [9] * 3, ways, 4, 3, {7}, None, None, Experience(4), decoder.fixed_rows
        )  # fmt: skip
        for _ in range(2):
            loop.live.join([1, 2, 3])
        monkeypatch.delattr(torch, "tensor")  # a list of numbers would be copied from the host
        with OnlyOnTheDevice():
            for k, once, before in ((4, False, False), (4, at_once, False), (4, at_once, at_once), (1, False, False)):
                report_BX = loop._step(k, once, before)
                assert report_BX.shape == (3, k + 3)
                assert loop.live.shape(k) is not None


def test_what_a_replayed_step_leaves_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that Python does in a step is either in the shape that a graph is kept by, or made up for after a
    replay: with steps that Python runs, but whose traces in Python are taken back, tokens are the same."""

    class Replayed(Graphs):
        replays = 0

        def run(self, shape: Any, step: Any, state: Any) -> Any:
            live = self.loop.live
            before = live._behind, live.longest
            if shape not in self._seen:
                self._seen.add(shape)
                made = step()
                self._graphs[shape] = None, made, state()
                return made, None
            made = step()
            live._behind, live.longest = before
            self.replays += 1
            return made, self._graphs[shape][2]

    made_loops = []
    start = Loop.__init__

    def with_graphs(self: Loop, *arguments: Any) -> None:
        start(self, *arguments)
        self.graphs = Replayed()
        self.graphs.loop = self  # type: ignore[attr-defined]
        made_loops.append(self)

    for arrangement in ARRANGEMENTS:
        model, prompts = sharp_model(arrangement), prompts_of(len(LIMITS))
        expected = Decoder(model, row_invariant=True).generate(prompts, LIMITS).tokens
        with monkeypatch.context() as patched:
            patched.setattr(Loop, "__init__", with_graphs)
            coming = iter([4, 4, 4, 1, 1, 4, 4, 2, 2, 2, 3, 4, 4] * 40)
            patched.setattr(DraftLength, "choose", lambda self, sequences, coming=coming: next(coming))
            for k in (1, 4, "adaptive"):
                decoder = Decoder(model, row_invariant=True, fixed_rows=True)
                assert decoder.generate(prompts, LIMITS, k=k, batch=4).tokens == expected  # type: ignore[arg-type]
    assert all(loop.graphs.replays > 3 for loop in made_loops)

"""Rows that stay in place, as captured graphs need them: the same tokens as with rows that move up, and steps that a
graph can hold."""

import random
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from components.decoding import live as live_module
from components.decoding import loop as loop_module
from components.decoding import room
from components.decoding.cache import Pass
from components.decoding.draft_length import DraftLength, Experience
from components.decoding.engine import Decoder
from components.decoding.graphs import Graphs
from components.decoding.live import Live
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


@pytest.mark.parametrize("bags", [False, True])
@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_a_step_can_be_captured(
    arrangement: str, at_once: bool, sampled: bool, bags: bool, monkeypatch: pytest.MonkeyPatch
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
        decoder.network._on_bags = bags
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
                assert len(loop.live.shape(k, before)) == 4


class Recorded:
    """In place of `Graphs`: steps with a shape that was there before are run, but what Python notes in them is taken
    back, as in a replay; and all that their passes are given beside tensors must be what it was the first time."""

    seconds = 0.0

    def __init__(self, live: Live) -> None:
        self.live, self.known, self.replays = live, {}, 0
        self.calls: list[Any] = []

    def run(self, shape: Any, step: Any, held: Any, take_back: Any) -> Any:
        self.calls.clear()
        made = step()
        calls = list(self.calls)
        if shape not in self.known:
            self.known[shape] = calls
            return made, False
        assert calls == self.known[shape], shape
        take_back()
        self.replays += 1
        return made, True


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_steps_of_one_shape_do_the_same(arrangement: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over positions read that grow, with every k, refilled rows, drafting before verification and along with it: as
    many drafts are accepted as without replays."""
    monkeypatch.setattr(live_module, "GRAIN", 64)
    recorded: list[Recorded] = []
    start = Loop.__init__

    def with_graphs(self: Loop, *arguments: Any) -> None:
        start(self, *arguments)
        self.graphs = Recorded(self.live)  # type: ignore[assignment]
        recorded.append(self.graphs)  # type: ignore[arg-type]

    model, prompts = sharp_model(arrangement), [[1, 2], [3] * 70, [5] * 150, [7], [8, 9]]
    limits = [150, 90, 40, 120, 200]
    plan = [4, 4, 4, 1, 1, 4, 4, 2, 2, 2, 4, 4, 1, 3, 4, 4] * 60
    for at_once in (True, False):
        expected = Decoder(model, row_invariant=True)
        decoder = Decoder(model, row_invariant=True, fixed_rows=True)
        for network in (expected.network, decoder.network):
            monkeypatch.setattr(
                network, "unembedding_seconds", lambda rows, at_once=at_once: 1.0 if at_once else rows**2
            )
        for k in (1, 4, "adaptive"):
            coming = [iter(plan), iter(plan)]
            monkeypatch.setattr(DraftLength, "choose", lambda self, sequences, coming=coming: next(coming[0]))
            right = expected.generate(prompts, limits, k=k, batch=3)  # type: ignore[arg-type]
            del coming[0]
            with monkeypatch.context() as patched:
                patched.setattr(Loop, "__init__", with_graphs)
                patched.setattr(loop_module, "MOST_STEPS_AHEAD", 1 if k == "adaptive" else 8)
                for name in ("_latest", "draft", "verify"):
                    patched.setattr(Live, name, spied(name, recorded))
                made = decoder.generate(prompts, limits, k=k, batch=3)  # type: ignore[arg-type]
            assert made.tokens == right.tokens
            assert made.runs == right.runs
    assert all(one.replays > 3 for one in recorded)
    assert max(shape[-1] for one in recorded for shape in one.known) > 128


def spied(name: str, recorded: list[Recorded]) -> Any:
    """A method of `Live` that notes what it is given and returns beside tensors."""
    method = getattr(Live, name)

    def noting(self: Live, *arguments: Any) -> Any:
        made = method(self, *arguments)
        if recorded:
            plain = [a if isinstance(a, int) else tuple(a.shape) for a in arguments]
            recorded[-1].calls.append((name, plain, made.S if isinstance(made, Pass) else None))
        return made

    return noting


def test_a_step_that_cannot_be_captured_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time, when it would be captured; Python's notes of the attempt are taken back."""

    def fails(self: Graphs, step: Any) -> Any:
        step()
        raise RuntimeError("operation not permitted when stream is capturing")

    start = Loop.__init__

    def with_graphs(self: Loop, *arguments: Any) -> None:
        start(self, *arguments)
        self.graphs = Graphs(self.device)

    noted = []
    monkeypatch.setattr(Loop, "__init__", with_graphs)
    monkeypatch.setattr(Graphs, "_capture", fails)
    monkeypatch.setattr(Live, "take_back", lambda self, before: noted.append(before))
    with pytest.warns(UserWarning, match="could not be captured"):
        Decoder(sharp_model("parallel"), fixed_rows=True).generate([[1]], 30, k=4)
    assert len(noted) == 1

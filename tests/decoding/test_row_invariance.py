"""Row-invariant decoding: a token's bits depend neither on the number of heads, nor on who else is in the batch."""

import itertools

import pytest
import torch
from torch import Tensor

from components.decoding import kernels
from components.decoding.checks import equality, row_noise
from components.decoding.engine import Decoder
from components.decoding.kernels import LEAST_ROWS, PackedMatrix, RowInvariantMatrix, matrix
from components.decoding.sampling import Sampling
from components.model.config import ModelConfig
from components.model.transformer import MultiTokenTransformer

ARRANGEMENTS = ["parallel", "causal", "anticausal", "linear", "replicated"]


def dull_model(arrangement: str, dim: int = 64, vocabulary: int = 1031) -> MultiTokenTransformer:
    """Logits close together, so that in bfloat16 rounding often decides: what is not the same bits shows soon."""
    config = ModelConfig(
        dim=dim,
        layers=6,
        n_attention_heads=dim // 32,
        vocabulary_size=vocabulary,
        n_future_tokens=4,
        arrangement=arrangement,  # type: ignore[arg-type]
    )
    model = MultiTokenTransformer(config)
    model.init_weights(2)
    return model.eval()


def prompts_of(vocabulary: int, lengths: tuple[int, ...]) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(vocabulary, (length,), generator=generator).tolist() for length in lengths]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_every_k_and_batch_gives_the_same_tokens(arrangement: str, dtype: torch.dtype) -> None:
    model = dull_model(arrangement)
    decoder = Decoder(model, dtype, row_invariant=True)
    prompts = prompts_of(1031, (5, 70, 1, 33, 64, 3))
    limits = [20, 9, 31, 15, 35, 25]
    expected = [decoder.generate([p], n).tokens[0] for p, n in zip(prompts, limits, strict=True)]
    for k, batch in itertools.product((1, 2, 4, "adaptive"), (1, 4, 6)):
        assert decoder.generate(prompts, limits, k=k, batch=batch).tokens == expected, (k, batch)  # type: ignore[arg-type]


def test_the_fast_mode_does_leave_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail: with sums in another order for other numbers of rows, it does."""

    exact = PackedMatrix.__call__

    def by_rows(self: PackedMatrix, x_RI: Tensor) -> Tensor:
        if x_RI.shape[0] <= 4:
            return exact(self, x_RI)
        first = x_RI.clone()  # more rows in two halves of the sum, as a library may choose to
        first[:, x_RI.shape[1] // 2 :] = 0
        return exact(self, first) + exact(self, x_RI - first)

    monkeypatch.setattr(PackedMatrix, "__call__", by_rows)
    model = dull_model("parallel")
    decoder = Decoder(model, torch.bfloat16, row_invariant=False)
    prompts = prompts_of(1031, (5, 70, 1, 33))
    assert decoder.generate(prompts, 60, k=4).tokens != decoder.generate(prompts, 60).tokens


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(96, 64), (1000, 768), (768, 3072), (5000, 256)])
def test_a_products_row_does_not_depend_on_its_neighbours(shape: tuple[int, int], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    product = matrix(torch.randn(shape, generator=generator).to(dtype), row_invariant=True)
    x_RI = torch.randn((150, shape[1]), generator=generator).to(dtype)
    expected = product(x_RI)
    for R in (1, 2, 3, 4, 5, 7, 15, 16, 17, 33, 63, 64, 65, 130):
        assert torch.equal(product(x_RI[20 : 20 + R]), expected[20 : 20 + R]), R


def test_numbers_of_rows_that_sum_otherwise_are_padded() -> None:
    """A product that is off for some numbers of rows, as one library's is for a single row."""

    class Odd:
        def __init__(self, weight: Tensor) -> None:
            self.weight = weight
            self.rows: list[int] = []

        def __call__(self, x_RI: Tensor) -> Tensor:
            self.rows.append(x_RI.shape[0])
            return x_RI @ self.weight.T + (x_RI.shape[0] in (1, 5, 6, 7, 24)) * 1e-3

    weight = torch.eye(8)
    inner = Odd(weight)
    kernels._known_counts.clear()
    product = RowInvariantMatrix(inner, weight)  # type: ignore[arg-type]
    inner.rows.clear()
    x_RI = torch.randn((64, 8), generator=torch.Generator().manual_seed(0))
    for R in range(1, 65):
        assert torch.equal(product(x_RI[:R]), x_RI[:R])
    assert not set(inner.rows) & {1, 5, 6, 7, 24}
    kernels._known_counts.clear()


def test_products_that_depend_on_the_place_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels._known_counts.clear()
    monkeypatch.setattr(
        PackedMatrix, "__call__", lambda self, x: x.new_ones(x.shape[0], 1) * torch.arange(x.shape[0])[:, None]
    )
    monkeypatch.setattr(kernels, "packing_works", lambda dtype: True)
    with pytest.raises(ValueError, match="row_invariant=False"):
        Decoder(dull_model("parallel"), torch.bfloat16, row_invariant=True)
    assert not Decoder(dull_model("parallel"), torch.bfloat16).row_invariant
    kernels._known_counts.clear()


def test_a_sampled_row_is_the_same_in_bfloat16_too() -> None:
    decoder = Decoder(dull_model("parallel"), torch.bfloat16)
    prompts = prompts_of(1031, (5, 40, 1, 33))
    samplings = [Sampling(1.0, seed=i) for i in range(4)]
    together = decoder.generate(prompts, 40, k=3, sampling=samplings).tokens
    alone = [decoder.generate([p], 40, k=3, sampling=s).tokens[0] for p, s in zip(prompts, samplings, strict=True)]
    assert alone == together


@pytest.mark.parametrize("row_invariant", [True, False])
def test_the_benchmark_explains_what_differs(row_invariant: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """No difference in the row-invariant mode, and no noise; where rows of a product do differ, each first divergence
    has a margin below the noise measured."""
    model = dull_model("replicated", vocabulary=300)
    if not row_invariant:
        exact, least = PackedMatrix.__call__, LEAST_ROWS[torch.bfloat16]
        monkeypatch.setattr(
            PackedMatrix,
            "__call__",
            lambda self, x: exact(self, x) * (1 + 2**-7 * (x.shape[0] > least)),
        )
    found = equality(model, torch.bfloat16, row_invariant, scale=0.04, new_tokens=(30, 50))
    assert found["tokens"] > 500
    assert found["explained"]
    assert (found["row_noise"] == 0) == row_invariant
    assert bool(found["differences"]) == (not row_invariant)
    assert len(found["hashes"]) == 3 * 5
    assert all(0 <= difference["margin"] <= found["row_noise"] for difference in found["differences"])


def test_without_fast_sums_the_mode_keeps_its_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where bags are not the fast way, the mode takes them all the same: other attention gives rows other bits."""
    monkeypatch.setattr("components.decoding.network.bags_are_fast", lambda: False)
    decoder = Decoder(dull_model("parallel"), torch.float32, row_invariant=True)
    assert row_noise(decoder, prompts_of(1031, (30, 70)), 5) == 0


def test_another_number_of_threads_is_tried_anew() -> None:
    """A product that is off for some rows on two threads alone."""

    class Odd:
        def __call__(self, x_RI: Tensor) -> Tensor:
            return x_RI + (torch.get_num_threads() == 2 and x_RI.shape[0] == 9) * 1e-3

    before = torch.get_num_threads()
    kernels._known_counts.clear()
    try:
        torch.set_num_threads(1)
        product = RowInvariantMatrix(Odd(), torch.eye(8))  # type: ignore[arg-type]
        x_RI = torch.ones((9, 8))
        torch.set_num_threads(2)
        assert torch.equal(product(x_RI), x_RI)
    finally:
        torch.set_num_threads(before)
        kernels._known_counts.clear()

"""The benchmark's figures hang together, and its checks find a fault that is put in."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from components.decoding import benchmark
from components.decoding.benchmark import draw_prompts, heads_to_measure, run_benchmark
from components.decoding.checks import Mismatch, differences, full_forward_mismatches, repeated_4grams
from components.decoding.config import DecodingConfig
from components.decoding.engine import Decoder
from components.decoding.kernels import matrix, packing_works
from components.decoding.limits import Roofs, step_limit, step_products
from components.model.config import ModelConfig
from components.model.transformer import MultiTokenTransformer


class Text(list[int]):
    def window(self, start: int, length: int) -> list[int]:
        return self[start : start + length]


def held_out(length: int = 3000) -> Text:
    return Text((i * i + 3 * i) % 97 for i in range(length))


def small_model(n: int = 3) -> MultiTokenTransformer:
    config = ModelConfig(dim=32, layers=5, n_attention_heads=2, ffn_dim=64, vocabulary_size=258, n_future_tokens=n)
    model = MultiTokenTransformer(config)
    model.init_weights(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    return model.eval()


CONFIG = DecodingConfig(
    batches=(1, 2), prompts=4, prompt_tokens=(4, 9), new_tokens=14, repeats=2, heldout_tokens=200, seed=5
)


def test_rows_samples_and_page_agree(tmp_path: Path) -> None:
    model = small_model()
    warnings: list[str] = []
    result = run_benchmark(
        CONFIG, model, held_out(), lambda ids: bytes(t for t in ids if t < 256), tmp_path, 2, warn=warnings.append
    )
    assert [(row.batch, row.k) for row in result.rows] == [(b, k) for b in (1, 2) for k in (1, 2, 3)]
    page = json.loads((tmp_path / "decoding.json").read_text())
    assert [(row.batch, row.k) for row in result.adaptive] == [(1, 3), (2, 3)]
    assert all(row.lossless for row in result.adaptive)
    assert page["row_noise"] is None, "nothing to hold against it"
    fixed = [facts for facts in page["rows"] if facts["arm"] != "adaptive"]
    assert {facts["limit_speedup"] for facts in page["rows"] if facts["arm"] == "adaptive"} == {None}
    assert len({facts["ids_hash"] for facts in page["rows"]}) == 1, "every arm's tokens are the same"
    for row, facts in zip(result.rows, fixed, strict=True):
        assert row.lossless
        assert facts["mismatches_full_forward"] == facts["mismatches_next_token"] == []
        assert {name: facts[name] for name in ("k", "r", "speedup")} == {"k": row.k, "r": row.r, "speedup": row.speedup}
        assert row.tokens_per_forward == pytest.approx(1 + sum(row.acceptance), rel=0.1)  # limits cut last runs
        assert len(row.acceptance) == row.k - 1
        assert row.speedup_low <= row.speedup <= row.speedup_high
        assert facts["step_limit_seconds"] > 0
    assert all(row.r == row.speedup == row.tokens_per_forward == 1 for row in result.rows if row.k == 1)
    assert bool(warnings) == (not page["quiet"])

    samples = json.loads((tmp_path / "samples.json").read_text())
    assert all(sum(run["tokens"] for run in sample["runs"]) == CONFIG.new_tokens for sample in samples)
    assert torch.get_num_threads() >= 1


def test_in_bfloat16_only_next_token_decoding_can_be_expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full forward rounds otherwise; its mismatches are listed, and are no loss."""
    wrong = Mismatch(0, 3, 1, 2, 0.01)
    monkeypatch.setattr(benchmark, "full_forward_mismatches", lambda *_: [wrong])
    for dtype in ("bfloat16", "float32"):
        config = dataclasses.replace(CONFIG, dtype=dtype, repeats=1)  # type: ignore[arg-type]
        model = small_model().to(getattr(torch, dtype))
        result = run_benchmark(config, model, held_out(), lambda ids: b"", tmp_path, 1)
        assert {row.lossless for row in result.rows} == {dtype == "bfloat16"}
        page = json.loads((tmp_path / "decoding.json").read_text())
        assert all(len(facts["mismatches_full_forward"]) == 1 for facts in page["rows"])


def test_a_wrong_token_is_found_with_its_place_and_margin() -> None:
    model = small_model()
    prompts = draw_prompts(CONFIG, held_out())
    right = Decoder(model).generate(prompts, 10).tokens
    assert full_forward_mismatches(model, prompts, right) == differences(model, prompts, right, right) == []
    broken = [list(tokens) for tokens in right]
    broken[2][6] = (broken[2][6] + 1) % 258
    for found in (full_forward_mismatches(model, prompts, broken), differences(model, prompts, right, broken)):
        (only,) = found
        assert (only.prompt, only.position, only.expected, only.found) == (2, 6, right[2][6], broken[2][6])
        assert only.margin > 0
    (short,) = differences(model, prompts, right, [*right[:3], right[3][:-1]])
    assert (short.prompt, short.position) == (3, 9)


def test_repeated_4grams_by_hand() -> None:
    assert repeated_4grams([[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 1, 2, 3, 4]]) == 2 / 6  # 1234 twice of six 4-grams
    assert repeated_4grams([[9]], [[1, 2, 3]]) == 0


def test_prompts_depend_on_the_seed_alone_and_are_ragged() -> None:
    prompts = draw_prompts(CONFIG, held_out())
    assert prompts == draw_prompts(CONFIG, held_out())
    assert sorted(map(len, prompts)) == [4, 5, 7, 9]
    assert prompts != draw_prompts(dataclasses.replace(CONFIG, seed=6), held_out())
    with pytest.raises(ValueError, match="held-out text has 8 tokens"):
        draw_prompts(CONFIG, held_out(8))


def test_more_heads_than_the_model_has_are_refused() -> None:
    assert heads_to_measure(DecodingConfig(), 4) == [2, 3, 4]
    assert heads_to_measure(DecodingConfig(heads=(1, 3)), 4) == [3]
    with pytest.raises(ValueError, match="4 prediction heads"):
        heads_to_measure(DecodingConfig(heads=(5,)), 4)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompts", 0),
        ("repeats", 0),
        ("new_tokens", 0),
        ("heldout_tokens", -1),
        ("dtype", "float16"),
        ("prompt_tokens", (9, 4)),
        ("heads", (0,)),
        ("heads", (2, 2)),
        ("batches", ()),
        ("batches", (3,)),
    ],
)
def test_values_out_of_range_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        DecodingConfig(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(64, 48), (300, 512), (1100, 800)])
def test_every_form_of_a_matrix_is_the_product(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    """Small, medium and large weights take different forms; one row and several take different calls."""
    generator = torch.Generator().manual_seed(0)
    weight = (torch.randn(shape, generator=generator) / shape[1] ** 0.5).to(dtype)
    form = matrix(weight)
    for rows in (1, 2, 7):
        x, residual = (torch.randn((rows, width), generator=generator).to(dtype) for width in reversed(shape))
        expected = x.double() @ weight.double().T
        tolerance = 1e-5 if dtype == torch.float32 else 0.05
        torch.testing.assert_close(form(x).double(), expected, atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(form.plus(x, residual).double(), expected + residual, atol=tolerance, rtol=tolerance)


def test_packing_is_given_up_where_it_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    packing_works.cache_clear()
    monkeypatch.setattr(
        "components.decoding.kernels.PackedMatrix.__call__", lambda self, x: x.new_zeros(x.shape[0], 96)
    )
    assert not packing_works(torch.float32)
    packing_works.cache_clear()


@pytest.mark.parametrize("arrangement", ["parallel", "causal", "anticausal", "linear", "replicated"])
def test_limits_count_every_weight_of_a_step(arrangement: str) -> None:
    """With all heads a step reads every matrix once and a shared unembedding twice; the embedding not at all. Without
    drafting it reads what leads to head 0."""
    config = ModelConfig(
        dim=32,
        layers=6,
        n_attention_heads=2,
        ffn_dim=64,
        vocabulary_size=100,
        n_future_tokens=3,
        arrangement=arrangement,  # type: ignore[arg-type]
    )
    model = MultiTokenTransformer(config)
    matrices = sum(p.numel() for p in model.parameters() if p.dim() == 2)
    table = 100 * 32
    twice = 0 if arrangement == "replicated" else table
    products = step_products(config, 3, 4)
    assert sum(product.weights for product in products) == matrices - table + twice
    # in all but the causal arrangement drafts are asked for at one row of each sequence, keys and values aside
    rows = {product.name: product.rows for product in products}
    assert rows["layers"] == rows["unembedding"] == 12
    assert rows.get("draft heads", 4) == (12 if arrangement == "causal" else 4)
    if arrangement != "replicated":
        assert rows["unembedding again"] == 8
        at_once = step_products(config, 3, 4, at_once=True)
        assert sum(product.weights for product in at_once) == matrices - table
        assert at_once[-1].rows == 3 * 12
    model(torch.zeros(1, 1, dtype=torch.long), heads=1).sum().backward()
    read = sum(p.numel() for p in model.parameters() if p.dim() == 2 and p.grad is not None)
    assert sum(product.weights for product in step_products(config, 1, 4)) == read - table


def test_the_limit_is_the_sum_of_what_binds_each_matrix() -> None:
    """By hand: 1 GB/s and 1 GFLOP/s, a model of two layers whose matrices are 12,288 weights and a table of 3,200."""
    config = ModelConfig(dim=32, layers=2, n_attention_heads=2, ffn_dim=85, vocabulary_size=100)
    assert config.layer_matrix_parameters() == 4096 + 3 * 32 * 85
    weights = 2 * config.layer_matrix_parameters() + 3200
    cached = 2 * 2 * 2 * 32 * 50  # two layers of keys and values, two bytes, 50 positions
    roofs = Roofs(1e9, 1e9)
    assert step_limit(config, 1, 1, 50, roofs, 2) == pytest.approx((2 * weights + cached) / 1e9)
    assert step_limit(config, 1, 8, 50, roofs, 2) == pytest.approx((16 * weights + 8 * cached) / 1e9)

"""bench.py: a table, then one line of JSON; typos are refused with the near names."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from components.decoding.beside import beside_transformers
from components.decoding.engine import Decoder
from components.decoding.peers import Transformers
from components.decoding.synthetic import SIZES
from components.model.config import ModelConfig
from components.model.transformer import MultiTokenTransformer
from components.model.weights import save_model
from components.training import benchmark_arms
from pipelines import bench

QUICK = ["subject=decode", "batches=1,2", "prompts=2", "prompt_tokens=4,6", "new_tokens=8", "repeats=1", "cores=1"]


def last_line(out: str) -> dict[str, object]:
    value = json.loads(out.splitlines()[-1])
    assert isinstance(value, dict)
    return value


def test_random_weights_with_drawn_acceptance(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["batches=2", "models=2m", "heads=[2,4]", "equality=0", "transformers=false", "new_tokens=30"]
    assert bench.main([*QUICK, *arguments]) == 0
    out = capsys.readouterr().out
    facts = last_line(out)
    cases = facts["cases"]
    assert isinstance(cases, list)
    assert "rows" not in facts
    assert [(case["arm"], case["k"], case["mode"]) for case in cases] == [
        ("next-token", 1, "row-invariant"),
        ("next-token", 1, "fast"),
        ("self-speculative", 2, "row-invariant"),
        ("self-speculative", 4, "row-invariant"),
        ("self-speculative", 4, "fast"),
        ("adaptive", "adaptive", "row-invariant"),
        ("adaptive", "adaptive", "row-invariant"),
    ]
    for case in cases:
        if case["k"] == 4:
            assert case["tokens_per_forward"] == pytest.approx(1 + 0.94 + 0.94 * 0.89 + 0.94 * 0.89 * 0.86, abs=0.4)
        assert case["predicted_speedup"] == pytest.approx(case["tokens_per_forward"] / case["r"])
        assert sum(case["parts_ms"].values()) > 0
        assert (case["limit_ms"] is None) == (case["arm"] == "adaptive")
        if case["limit_ms"]:  # at its limit a step with drafts still takes longer than one without
            assert case["limit_speedup"] == case["tokens_per_forward"] == 1 or case["k"] > 1
            assert case["limit_speedup"] <= case["tokens_per_forward"]
        assert (case["ids_hash"] is None) == (case["arm"] != "next-token"), (
            "where acceptance is drawn, no token is valid"
        )
    assert facts["lossless"] is None, "nothing was checked"
    assert {"read_gb_per_second", "matmul_gflops"} <= set(facts["machine"])  # type: ignore[arg-type]
    assert str(facts["text"]).startswith("invalid")
    assert out.splitlines()[0].split()[:3] == ["model", "batch", "arm"]


def test_transformers_decodes_the_exported_model_to_the_same_tokens() -> None:
    """Prompts of different lengths, as the benchmark pads them, and its prompt lookup."""
    config = ModelConfig(dim=64, layers=4, n_attention_heads=4, vocabulary_size=97, n_future_tokens=3)
    model = MultiTokenTransformer(config)
    model.init_weights(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.dim() == 2 else 1)
    prompts = [[1, 2, 3], [5] * 9, [7]]
    peer = Transformers(model.eval(), torch.float32)
    block = peer.decode(prompts, 20)
    assert block.tokens == Decoder(model).generate(prompts, 20, k=3).tokens
    assert block.decoded == 3 * 19
    assert len(block.step_seconds) == 19
    lookup = peer.decode(prompts[:1], 20, lookup=3)
    assert lookup.tokens == block.tokens[:1]
    assert lookup.decoded == 19


def test_random_weights_beside_transformers_in_turns() -> None:
    found = beside_transformers(SIZES["tiny"], (1, 2), torch.float32, 2, 6, 1, 0, torch.device("cpu"))
    assert list(found) == ["1", "2"]
    for batch, row in found.items():
        low, high = sorted(row[f"{side}_tokens_per_second"] for side in ("ours", "transformers"))
        assert 0 < low <= high
        assert (row["prompt_lookup_tokens_per_second"] is not None) == (batch == "1"), "it takes one sequence"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Of bytes, with random weights."""
    path = tmp_path / "pretrain-n2"
    config = ModelConfig(dim=32, layers=4, n_attention_heads=2, vocabulary_size=258, n_future_tokens=2)
    model = MultiTokenTransformer(config)
    model.init_weights(0)
    save_model(model, path)
    (path / "tokenizer").mkdir()
    (path / "tokenizer" / "tokenizer.json").write_text(json.dumps({"kind": "bytes", "vocabulary_size": 258}))
    return path


def test_a_checkpoint_with_prompts_from_files(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each file an experiment, in every one of which all arms, transformers' among them, make the same tokens."""
    code, prose = tmp_path / "held_out.py", tmp_path / "held_out.txt"
    code.write_text("for i in range(10):\n    print(i)\n" * 20)
    prose.write_text("It was the best of times, it was the worst of times. " * 20)
    arguments = [*QUICK, f"checkpoint={checkpoint}", "heldout_tokens=50", "dtype=float32"]
    assert bench.main([*arguments, f"text={code},{prose}"]) == 0
    out = capsys.readouterr().out
    facts = last_line(out)
    cases = facts["cases"]
    assert isinstance(cases, list)
    assert "rows" not in facts
    lookups = [("prompt lookup 3", None), ("prompt lookup 10", None)]
    assert [(case["text"], case["batch"], case["arm"], case["k"]) for case in cases] == [
        (text, batch, arm, k)
        for text in ("held_out.py", "held_out.txt")
        for batches, arms in (
            ((1, 2), [("next-token", 1), ("self-speculative", 2), ("adaptive", 2)]),
            ((1,), [("transformers", None), *lookups]),
            ((2,), [("transformers", None)]),
        )
        for batch in batches
        for arm, k in arms
    ]
    for text in ("held_out.py", "held_out.txt"):
        assert len({case["ids_hash"] for case in cases if case["text"] == text}) == 1
    assert len({case["ids_hash"] for case in cases}) == 2, "other prompts, other tokens"
    assert all(case["lossless"] for case in cases)
    assert facts["lossless"] is facts["same_ids"] is True
    keys = {
        "model",
        "arrangement",
        "n_future_tokens",
        "dtype",
        "mode",
        "tokens_per_forward",
        "step_ms",
        "limit_ms",
        "r",
    }
    for case in cases:
        assert keys | {"speedup", "tokens_per_second"} <= set(case)
        if case["mode"] == "transformers":
            assert case["tokens_per_forward"] >= 1
            assert (case["tokens_per_forward"] > 1) <= case["arm"].startswith("prompt lookup")
            assert len(case["speedups"]) == 1, "as many turns as repeats"
    ratios = {str(c["batch"]): [1 / s for d in cases if d["arm"] == "transformers" and d["batch"] == c["batch"]
                                for s in d["speedups"]] for c in cases}  # fmt: skip
    assert facts["vs_transformers"] == {batch: pytest.approx(sum(pair) / 2) for batch, pair in ratios.items()}
    assert set(facts["heldout_histogram"]) == {"held_out.py", "held_out.txt"}  # type: ignore[call-overload]
    assert out.splitlines()[0].split()[:3] == ["text", "model", "batch"]

    assert bench.main([*arguments, f"text={code}", "transformers=false", "batches=2"]) == 0
    out = capsys.readouterr().out
    facts = last_line(out)
    assert {case["text"] for case in facts["cases"]} == {"held_out.py"}  # type: ignore[attr-defined]
    assert facts["vs_transformers"] == {}
    assert out.splitlines()[0].split()[:2] == ["model", "batch"], "no column for a single text"


def test_sampled_decoding_is_timed(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Arms draw other tokens, so none are compared; without drafts a forward makes one."""
    (tmp_path / "code.py").write_text("for i in range(10):\n    print(i)\n" * 20)
    arguments = [*QUICK, f"checkpoint={checkpoint}", f"text={tmp_path / 'code.py'}", "temperature=0.8", "top_p=0.9"]
    assert bench.main(arguments) == 0
    facts = last_line(capsys.readouterr().out)
    cases: list[dict[str, float]] = facts["cases"]  # type: ignore[assignment]
    assert [(case["batch"], case["arm"], case["k"]) for case in cases] == [
        (batch, arm, k) for batch in (1, 2) for arm, k in (("next-token", 1), ("self-speculative", 2), ("adaptive", 2))
    ]
    assert facts["text"] == "sampled"
    assert facts["lossless"] is facts["same_ids"] is None
    for case in cases:
        assert (case["temperature"], case["top_p"]) == (0.8, 0.9)
        assert case["lossless"] is None
        assert case["tokens_per_forward"] == 1 if case["k"] == 1 else 1 <= case["tokens_per_forward"] <= 2
        assert case["speedup"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["temperature=0.8"], "give checkpoint=PATH"),
        (["cores=0"], "cores is 0; it must be at least 1"),
        (["top_p=0.9"], "temperature 0, which is greedy"),
        (["temperature=-1"], "temperature is -1.0; it must be 0 (greedy) or more"),
    ],
)
def test_sampling_that_cannot_be_timed_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.main(["subject=decode", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "give shards=PATH or, for prompts from files, text=PATH"),
        (["good.py", "none.py"], "none.py"),
        (["good.py", "short.py"], "short.py: the held-out text has 3 tokens; decoding.prompt_tokens asks for up to 6"),
        (["good.py", "latin.py"], "latin.py, which is not UTF-8 (invalid continuation byte at byte 3)"),
    ],
)
def test_what_prompts_cannot_be_drawn_from_is_named(
    texts: list[str], message: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is measured."""
    (tmp_path / "good.py").write_text("x = 1\n" * 100)
    (tmp_path / "short.py").write_text("x=1")
    (tmp_path / "latin.py").write_bytes("caf\u00e9 au lait".encode("latin-1"))
    arguments = [f"text={','.join(str(tmp_path / text) for text in texts)}"] if texts else []
    assert bench.main([*QUICK, f"checkpoint={checkpoint}", "heldout_tokens=50", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert not captured.out


def test_training_steps_side_by_side(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On a model so small that its logits are most of a step's memory."""
    shape = ModelConfig(dim=32, layers=6, n_attention_heads=2, vocabulary_size=4096)
    monkeypatch.setattr(benchmark_arms, "SIZES", {"tiny": benchmark_arms.Size(shape, 64, 32, 2)})
    assert bench.main(["subject=train", "sizes=tiny", "compiled=false"]) == 0
    facts = last_line(capsys.readouterr().out)
    found = {figure: facts[figure]["tiny"] for figure in bench.TRAIN_FIGURES}  # type: ignore[index]
    flops = [replace(shape, n_future_tokens=n).flops_per_token(64) for n in (1, 4)]
    assert found["flop_ratio_n4_n1"] == pytest.approx(flops[1] / flops[0], rel=0.02)  # blocks of attention aside
    assert found["peak_ratio_naive"] < 0.4, "logits of one head and one chunk at a time"
    assert all(value > 0 for value in found.values())
    (row,) = facts["rows"]  # type: ignore[misc]
    assert {len(seconds) for seconds in row["seconds"].values()} == {2}
    assert set(row["peaks"]) == {"n=1", "n=4", "naive n=4"}
    assert facts["quiet"] == (row["quiet"] is True)
    assert {"torch", "threads"} <= set(facts["machine"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["subject=deocde"], ["did you mean decode?"]),
        (["checkpoint=x"], ["give one of decode"]),
        (["subject=decode", "repaets=3"], ["repaets: no such key; did you mean repeats"]),
        (["subject=decode", "new_tokens=many", "dtyp=x"], ["dtyp: no such key", "new_tokens: "]),
        (["subject=decode", "models=1T"], ["there are 110m, 350m, byte"]),
        (["subject=decode", "heads=9"], ["heads"]),
        (["subject=decode", "heads=[9]"], ["4 prediction heads"]),
        (["subject=decode", "checkpoint=/nowhere"], ["not a checkpoint"]),
        (["subject=train", "sizes=3m"], ["sizes has 3m; there are 5m, 30m, 100m"]),
    ],
)
def test_faults_are_named(capsys: pytest.CaptureFixture[str], arguments: list[str], messages: list[str]) -> None:
    assert bench.main(arguments) == 2
    err = capsys.readouterr().err
    assert all(message in err for message in messages), err


def test_help_lists_the_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--help"]) == 0
    assert "new_tokens=48" in capsys.readouterr().out

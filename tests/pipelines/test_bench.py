"""bench.py: a table, then one line of JSON; typos are refused with the near names."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

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
    assert bench.main([*QUICK, "heads=[2,4]", "acceptance=1,1,1"]) == 0
    out = capsys.readouterr().out
    facts = last_line(out)
    rows = facts["rows"]
    assert isinstance(rows, list)
    assert [(row["batch"], row["k"]) for row in rows] == [(1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (2, 4)]
    assert [row["histogram"] for row in rows if row["k"] == 2] == [[0, 8], [0, 8]]  # 7 tokens are 4 full steps
    assert str(facts["text"]).startswith("invalid")
    assert "lossless" not in rows[0]
    assert out.splitlines()[0].split()[:3] == ["batch", "k", "threads"]


def test_a_checkpoint_with_prompts_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = tmp_path / "pretrain-n2"
    config = ModelConfig(dim=32, layers=4, n_attention_heads=2, vocabulary_size=258, n_future_tokens=2)
    model = MultiTokenTransformer(config)
    model.init_weights(0)
    save_model(model, checkpoint)
    (checkpoint / "tokenizer").mkdir()
    (checkpoint / "tokenizer" / "tokenizer.json").write_text(json.dumps({"kind": "bytes", "vocabulary_size": 258}))
    text = tmp_path / "held_out.py"
    text.write_text("for i in range(10):\n    print(i)\n" * 20)
    assert bench.main([*QUICK, f"checkpoint={checkpoint}", f"text={text}", "heldout_tokens=50"]) == 0
    rows = last_line(capsys.readouterr().out)["rows"]
    assert isinstance(rows, list)
    assert [(row["batch"], row["k"], row["lossless"]) for row in rows] == [
        (batch, k, True) for batch in (1, 2) for k in (1, 2)
    ]
    assert bench.main([*QUICK, f"checkpoint={checkpoint}"]) == 2
    assert "give shards=PATH or, for prompts from a file, text=PATH" in capsys.readouterr().err


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
        (["subject=decode", "size=1T"], ["there are 2M"]),
        (["subject=decode", "heads=9"], ["heads"]),
        (["subject=decode", "heads=[9]"], ["4 prediction heads"]),
        (["subject=decode", "acceptance=0.2,0.5"], ["do not increase"]),
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
    assert "new_tokens=96" in capsys.readouterr().out

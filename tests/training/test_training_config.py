"""Values out of range are refused with the field, the value and what is allowed."""

import subprocess
import sys

import pytest

from components.training.config import FinetuneConfig, PretrainConfig, TrainingConfig, TrainingExecution

SHARED = [
    ({"steps": 0}, "steps is 0; it must be at least 1"),
    ({"batch_tokens": 1000}, r"batch_tokens is 1000, not a multiple of context_length \(256\).*768 or 1024"),
    ({"batch_tokens": 100}, "use 256$"),
    ({"learning_rate": 0.0}, r"learning_rate is 0\.0; it must be above 0"),
    ({"learning_rate": float("nan")}, "learning_rate is nan"),
    ({"warmup_steps": -1}, "warmup_steps is -1"),
    ({"decay_ratio": 1.5}, r"decay_ratio is 1\.5; it must lie in \[0, 1\]"),
    ({"beta2": 1.0}, r"beta2 is 1\.0"),
    ({"weight_decay": -0.1}, "weight_decay"),
    ({"clip_norm": 0.0}, "clip_norm"),
    ({"precision": "float16"}, "precision is 'float16'; use 'bfloat16' or 'float32'"),
]


@pytest.mark.parametrize(("changes", "said"), SHARED)
@pytest.mark.parametrize("config", [TrainingConfig, FinetuneConfig])
def test_out_of_range(config, changes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config(**changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"workers": 0}, "workers is 0"),
        ({"min_workers": 0}, "min_workers is 0"),
        ({"max_failures": -2}, "max_failures is -2"),
        ({"cpus_per_worker": 0}, "cpus_per_worker is 0"),
        ({"gpus_per_worker": 2}, "gpus_per_worker is 2"),
        ({"micro_batch_sequences": 0}, "micro_batch_sequences is 0"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0"),
        ({"keep_checkpoints": 0}, "keep_checkpoints is 0"),
    ],
)
def test_execution_out_of_range(changes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TrainingExecution(**changes)


def test_heads_to_keep_are_at_least_one() -> None:
    with pytest.raises(ValueError, match="n_future_tokens is 0"):
        FinetuneConfig(n_future_tokens=0)


@pytest.mark.parametrize("config", [TrainingConfig, FinetuneConfig, PretrainConfig, TrainingExecution])
def test_every_field_has_a_docstring(config) -> None:
    import ast
    import inspect

    body = ast.parse(inspect.getsource(config)).body[0].body
    for statement, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign):
            assert isinstance(after, ast.Expr), f"{statement.target.id} has no docstring"


def test_config_and_stage_need_no_heavy_library() -> None:
    """A plan imports every stage and must answer at once."""
    code = (
        "import sys, components.training.stage, components.training.config;"
        "print(sorted({'torch', 'ray', 'pyarrow', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

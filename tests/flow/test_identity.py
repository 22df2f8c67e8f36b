"""Identity: what must change a key, what must not, and what has no identity at all."""

import dataclasses
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from components.flow.identity import Identity, canonical, differences


@dataclass(frozen=True)
class Inner:
    rate: float = 3e-4
    names: tuple[str, ...] = ("a", "b")


@dataclass(frozen=True)
class Outer:
    inner: Inner = dataclasses.field(default_factory=Inner)
    steps: int = 10
    path: str | None = None


def identity(config: object, version: int = 1) -> Identity:
    return Identity("train", version, canonical(config), None, None)


def test_canonical_is_plain_json() -> None:
    expected = {"inner": {"names": ["a", "b"], "rate": 3e-4}, "path": None, "steps": 10}
    assert json.loads(json.dumps(canonical(Outer()))) == expected


@pytest.mark.parametrize("value", [{1, 2}, lambda: 0, Path("x"), float("nan"), float("inf"), b"bytes", {1: 2}])
def test_what_has_no_stable_form_is_refused_with_its_place(value: object) -> None:
    with pytest.raises(TypeError, match=r"config\[1\]"):
        canonical([0, value])


def test_every_field_version_and_input_changes_the_key() -> None:
    base = identity(Outer())
    keys = {
        base.key(["x"]),
        identity(Outer(steps=11)).key(["x"]),
        identity(Outer(Inner(rate=6e-4))).key(["x"]),
        identity(Outer(), version=2).key(["x"]),
        base.key(["y"]),
        base.key([["x"]]),
    }
    assert len(keys) == 6


def test_key_is_the_same_in_another_process() -> None:
    program = (
        "from components.flow.identity import Identity; "
        "print(Identity('train', 1, {'b': [1, 2.5], 'a': 'é'}, None, None).key(['x', ['y']]))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}
    )
    assert printed.stdout.strip() == Identity("train", 1, {"a": "é", "b": [1, 2.5]}, None, None).key(["x", ["y"]])


def test_differences_name_the_field_and_both_values() -> None:
    old, new = canonical(Outer()), canonical(Outer(Inner(rate=6e-4), steps=20))
    assert differences(old, new) == ["inner.rate 0.0003 → 0.0006", "steps 10 → 20"]


def test_a_long_list_is_told_by_what_is_gone_and_what_is_new() -> None:
    old = [f"package {i}" for i in range(9)]
    assert differences({"names": old}, {"names": [*old, "seed=2"]}) == ["names: 1 new (seed=2)"]
    assert differences(old, [*old[1:], "a", "b"], "names") == ["names: 1 gone (package 0), 2 new (a, …)"]

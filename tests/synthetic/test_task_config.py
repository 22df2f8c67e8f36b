"""What a task's config refuses: by field, with the value and what is allowed, all of it at once."""

import math
import re
from typing import Any

import pytest

from components.synthetic.config import InductionConfig, PathStarConfig, PolynomialConfig

TOO_LOW: list[tuple[type, str, int]] = [
    (InductionConfig, "names", 1),
    (InductionConfig, "first_tokens", 2),
    (InductionConfig, "second_tokens", 2),
    (InductionConfig, "words", 2),
    (InductionConfig, "successors", 1),
    (InductionConfig, "words_per_sentence", 1),
    (InductionConfig, "characters", 1),
    (InductionConfig, "sentences", 2),
    (PolynomialConfig, "p", 2),
    (PolynomialConfig, "d", 1),
    (PolynomialConfig, "operations", 1),
    (PolynomialConfig, "test_operations", 5),
    (PolynomialConfig, "pauses", 0),
    (PathStarConfig, "arms", 2),
    (PathStarConfig, "edges", 2),
]
FITTING = {"names": 4, "first_tokens": 9, "second_tokens": 9, "successors": 2, "characters": 1}
"""Of an InductionConfig: what leaves room for the least of every field."""


def faults_of(config: type, **changes: Any) -> list[str]:
    with pytest.raises(ValueError, match=" is ") as refused:
        config(**changes)
    return str(refused.value).splitlines()


@pytest.mark.parametrize(("config", "field", "least"), TOO_LOW)
def test_what_is_below_the_least_is_refused_by_field_value_and_least_which_itself_is_fine(
    config: type, field: str, least: int
) -> None:
    for value in (least - 1, -5):
        assert f"{field} is {value}; it must be at least {least}" in faults_of(config, **{field: value})
    changes = (FITTING if config is InductionConfig else {}) | {field: least}
    assert getattr(config(**changes), field) == least


@pytest.mark.parametrize(
    ("config", "changes", "said"),
    [
        (InductionConfig, {"zipf": -0.5}, "zipf is -0.5; it must lie in "),
        (InductionConfig, {"zipf": math.nan}, "zipf is nan; "),
        (InductionConfig, {"zipf": math.inf}, "zipf is inf; "),
        (InductionConfig, {"names": 60, "first_tokens": 10, "second_tokens": 10}, "names is 60, of 100 pairs .*half"),
        (InductionConfig, {"names": 5, "characters": 6}, "characters is 6, more than there are names"),
        (InductionConfig, {"first_tokens": 20, "characters": 21}, "characters is 21, more than .* first tokens"),
        (InductionConfig, {"words": 5, "successors": 6}, r"successors is 6, more than there are words \(5\)"),
        *[(PolynomialConfig, {"p": p}, f"p is {p}; it must be a prime, at most 251") for p in (4, 9, 15, 49, 221, 250)],
        (PolynomialConfig, {"p": 257}, "p is 257; it must be a prime, at most 251"),
        (PathStarConfig, {"nodes": 8}, "nodes is 8; 2 arms of 4 edges have 9 nodes"),
        (PathStarConfig, {"arms": 6, "edges": 5}, "nodes is 30; 6 arms of 5 edges have 31 nodes"),
    ],
)
def test_what_does_not_fit_is_refused_by_field_value_and_what_is_allowed(
    config: type, changes: dict[str, Any], said: str
) -> None:
    (fault,) = faults_of(config, **changes)
    assert re.match(said, fault)


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (InductionConfig, {"zipf": 0}),
        (InductionConfig, {"names": 49, "first_tokens": 10, "second_tokens": 10}),
        (InductionConfig, {"names": 6, "characters": 6, "sentences": 12}),
        (InductionConfig, {"words": 5, "successors": 5}),
        *[(PolynomialConfig, {"p": p}) for p in (2, 3, 5, 241, 251)],
        (PathStarConfig, {"nodes": 9}),
        (PathStarConfig, {"arms": 6, "edges": 5, "nodes": 31}),
    ],
)
def test_the_last_that_fits_is_taken(config: type, changes: dict[str, Any]) -> None:
    made = config(**changes)
    assert {name: getattr(made, name) for name in changes} == changes


def test_all_faults_of_a_config_are_said_at_once() -> None:
    low = {"first_tokens": 1, "second_tokens": 0, "words": 1, "successors": 0, "sentences": 1}
    assert faults_of(InductionConfig, **low, zipf=-1.0) == [
        "first_tokens is 1; it must be at least 2",
        "second_tokens is 0; it must be at least 2",
        "words is 1; it must be at least 2",
        "successors is 0; it must be at least 1",
        "sentences is 1; it must be at least 2",
        "zipf is -1.0; it must lie in [0, 10]",
    ]
    misfits = faults_of(InductionConfig, names=90, first_tokens=10, second_tokens=10, characters=11, successors=500)
    assert [fault.split(" ")[0] for fault in misfits] == ["names", "characters", "successors"]
    assert faults_of(PolynomialConfig, p=6, d=0, operations=-1, test_operations=0, pauses=-2) == [
        "d is 0; it must be at least 1",
        "operations is -1; it must be at least 1",
        "test_operations is 0; it must be at least 1",
        "pauses is -2; it must be at least 0",
        "p is 6; it must be a prime, at most 251",
    ]
    star = faults_of(PathStarConfig, arms=1, edges=1, nodes=1)
    assert [fault.split(" ")[0] for fault in star] == ["arms", "edges", "nodes"]

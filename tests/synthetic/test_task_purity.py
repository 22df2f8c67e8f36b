"""What a step's examples depend on, for every task: on its seed and its number, and on nothing that came before."""

import json
import subprocess
import sys

import numpy as np
import plain_examples
import pytest
from plain_examples import STEPS, TASKS, digest, digests

from components.synthetic.tasks import task_of


def test_another_process_that_asks_in_another_order_gets_the_same_examples_and_tests() -> None:
    ran = subprocess.run([sys.executable, plain_examples.__file__], capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout) == digests()


@pytest.mark.parametrize("name", TASKS)
def test_a_task_that_has_made_other_steps_and_its_test_makes_the_same_examples(name: str) -> None:
    used = task_of(TASKS[name])
    for seed, step in STEPS:
        used.examples(seed, step, 300)
        used.test(5)
        used.shown()
        assert digest(used.examples(seed, step, 500)) == digest(task_of(TASKS[name]).examples(seed, step, 500))


@pytest.mark.parametrize("name", TASKS)
def test_chance_used_elsewhere_changes_nothing(name: str) -> None:
    np.random.seed(1)  # noqa: NPY002
    first = digest(task_of(TASKS[name]).examples(1, 3, 500))
    np.random.seed(2)  # noqa: NPY002
    assert digest(task_of(TASKS[name]).examples(1, 3, 500)) == first


@pytest.mark.parametrize("name", TASKS)
def test_seeds_and_steps_have_examples_of_their_own(name: str) -> None:
    task = task_of(TASKS[name])
    pairs = [(seed, step) for seed in range(6) for step in range(20)]
    firsts = {tuple(task.examples(seed, step, 1).tokens_EL[0].tolist()) for seed, step in pairs}
    assert len(firsts) == len(pairs)


@pytest.mark.parametrize("name", TASKS)
def test_there_are_as_many_tokens_as_asked_and_no_example_is_longer_than_the_longest(name: str) -> None:
    task = task_of(TASKS[name])
    for tokens in (1, 50, 1000, 20_000):
        examples = task.examples(1, 0, tokens)
        assert examples.length_E.sum() >= tokens
        assert examples.length_E.max() <= task.longest
        inside = np.arange(examples.tokens_EL.shape[1]) < examples.length_E[:, None]
        assert not examples.tokens_EL[~inside].any(), "zeros behind an example's end"
        assert not examples.counted_EL[~inside].any()
        assert 0 <= examples.tokens_EL.min() <= examples.tokens_EL.max() < task.config.vocabulary_size


@pytest.mark.parametrize("name", TASKS)
def test_every_part_of_a_test_has_as_many_items_as_asked(name: str) -> None:
    for items in (1, 7, 100):
        assert {len(part.examples) for part in task_of(TASKS[name]).test(items)} == {items}

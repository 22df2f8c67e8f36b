"""Rows of examples as training takes them: nothing lost, nothing doubled, and no target across an example's end."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.distributed as dist
from plain_examples import TASKS, written
from torch.testing._internal.distributed.fake_pg import FakeStore

from components.synthetic.batches import TaskBatches
from components.synthetic.config import InductionConfig, PathStarConfig, PolynomialConfig
from components.synthetic.examples import Examples, Scored, packed
from components.synthetic.tasks import task_of
from components.training.config import TrainingConfig
from components.training.cross_entropy import IGNORE

CPU = torch.device("cpu")


class Numbered:
    """Examples of 1 to `longest` tokens that are numbered from 1 on throughout a step; two of three count."""

    def __init__(self, longest: int) -> None:
        self.longest = longest

    def lengths(self, seed: int, step: int) -> Iterator[int]:
        random = np.random.default_rng((seed, step))
        while True:
            yield int(random.integers(1, self.longest + 1))

    def examples(self, seed: int, step: int, tokens: int) -> Examples:
        lengths = []
        for length in self.lengths(seed, step):
            lengths.append(length)
            if sum(lengths) >= tokens:
                break
        inside_EL = np.arange(self.longest) < np.array(lengths)[:, None]
        tokens_EL = np.zeros(inside_EL.shape, np.int64)
        tokens_EL[inside_EL] = np.arange(1, sum(lengths) + 1)
        return Examples(tokens_EL, np.array(lengths), inside_EL & (tokens_EL % 3 > 0))

    def test(self, items: int) -> list[Scored]:
        return []

    def shown(self) -> str:
        return ""


def config_of(rows: int, length: int, seed: int = 1) -> TrainingConfig:
    return TrainingConfig(batch_tokens=rows * length, context_length=length, seed=seed)


def targets_by_hand(row: list[int], ends: list[int], counted: list[bool], n: int) -> list[list[int]]:
    """Of every head: the token so far ahead, where it is in the same example and counts."""
    targets = [[IGNORE] * len(row) for _ in range(n)]
    for start, end in zip([0, *ends], ends, strict=False):
        for here in range(start, end):
            for head in range(n):
                there = here + head + 1
                if there < end and counted[there]:
                    targets[head][here] = row[there]
    return targets


@pytest.mark.parametrize(("rows", "length", "longest"), [(1, 8, 8), (5, 40, 7), (7, 23, 20), (16, 64, 64), (3, 9, 1)])
@pytest.mark.parametrize("step", [0, 3])
def test_rows_hold_whole_examples_in_order_and_an_example_that_does_not_fit_begins_the_next(
    rows: int, length: int, longest: int, step: int
) -> None:
    task = Numbered(longest)
    tokens, targets = TaskBatches(task, config_of(rows, length), 3, CPU).batch(step)
    assert tokens.shape == (rows, length)
    assert targets.shape == (3, rows, length)
    lengths, number = task.lengths(1, step), 1
    following = next(lengths)
    for row, of_heads in zip(tokens.tolist(), targets.transpose(0, 1).tolist(), strict=True):
        ends = [0]
        while ends[-1] + following <= length:
            ends.append(ends[-1] + following)
            following = next(lengths)
        assert row == [*range(number, number + ends[-1]), *[0] * (length - ends[-1])]
        number += ends[-1]
        assert of_heads == targets_by_hand(row, ends[1:], [token % 3 > 0 for token in row], 3)


@pytest.mark.parametrize("answer_only", [False, True])
@pytest.mark.parametrize("task", ["polynomials", "path_star", "induction"])
def test_targets_of_real_examples_stay_within_them(task: str, answer_only: bool) -> None:
    """Where an example ends and what counts is found from its signs."""
    p, nodes = 5, 13
    config = {
        "polynomials": PolynomialConfig(p=p, d=2, operations=3, pauses=1, answer_only=answer_only),
        "path_star": PathStarConfig(2, 3, nodes, answer_only=answer_only),
        "induction": InductionConfig(names=9, first_tokens=4, second_tokens=5, words=6, successors=2, sentences=4),
    }[task]
    length = 2 * config.longest + 5
    tokens, targets = TaskBatches(task_of(config), config_of(6, length), 4, CPU).batch(2)
    examples = 0
    for row, of_heads in zip(tokens.tolist(), targets.transpose(0, 1).tolist(), strict=True):
        counted = [True] * length
        if task == "polynomials":
            ends = [place + 1 for place, token in enumerate(row) if token == p + 8]
            if answer_only:
                counted = [place + 2 in ends or place + 3 in ends for place in range(length)]
        elif task == "path_star":
            ends = [place + 4 for place, token in enumerate(row) if token == nodes + 2]
            if answer_only:
                counted = [any(end - 3 <= place < end for end in ends) for place in range(length)]
        else:
            ends = [config.longest, 2 * config.longest]
            assert [place for place, token in enumerate(row[: ends[-1]]) if token == 0] == [0, config.longest]
        assert not any(row[ends[-1] :])
        assert of_heads == targets_by_hand(row, ends, counted, 4)
        examples += len(ends)
    assert examples >= 12, "several in a row"


@pytest.mark.parametrize("name", TASKS)
def test_all_numbers_of_heads_see_the_same_rows_and_nearer_heads_the_same_targets(name: str) -> None:
    task = task_of(TASKS[name])
    batches = [TaskBatches(task, config_of(8, task.longest + 20), n, CPU).batch(5) for n in (1, 2, 4, 8)]
    for n, (tokens, targets) in zip((1, 2, 4, 8), batches, strict=True):
        assert torch.equal(tokens, batches[-1][0])
        assert torch.equal(targets, batches[-1][1][:n])


@pytest.mark.parametrize("name", TASKS)
def test_a_step_is_the_same_whatever_was_asked_before_and_no_other_s(name: str) -> None:
    task = task_of(TASKS[name])
    config = config_of(4, task.longest + 20)
    used = TaskBatches(task, config, 2, CPU)
    first = {step: used.batch(step) for step in (3, 0, 1)}
    for step, (tokens, targets) in first.items():
        fresh = TaskBatches(task_of(TASKS[name]), config, 2, CPU).batch(step)
        assert torch.equal(tokens, fresh[0])
        assert torch.equal(targets, fresh[1])
    other_seed = TaskBatches(task, config_of(4, task.longest + 20, seed=2), 2, CPU).batch(0)
    different = [*(tokens for tokens, _ in first.values()), other_seed[0]]
    assert not any(torch.equal(a, b) for i, a in enumerate(different) for b in different[:i])


@pytest.mark.parametrize("workers", [2, 3, 5])
def test_shares_of_workers_put_together_are_the_step_of_one(workers: int) -> None:
    task = task_of(TASKS["polynomials"])
    batches = TaskBatches(task, config_of(7, task.longest), 3, CPU)
    whole = batches.batch(4)
    shares = []
    for rank in range(workers):
        dist.init_process_group("fake", rank=rank, world_size=workers, store=FakeStore())
        try:
            shares.append(batches.batch(4))
        finally:
            dist.destroy_process_group()
    assert {len(tokens) for tokens, _ in shares} <= {7 // workers, 7 // workers + 1}
    assert torch.equal(torch.cat([tokens for tokens, _ in shares]), whole[0])
    assert torch.equal(torch.cat([targets for _, targets in shares], 1), whole[1])


def test_heads_that_look_beyond_a_row_have_no_targets() -> None:
    _, targets = TaskBatches(Numbered(3), config_of(50, 3), 6, CPU).batch(0)
    assert targets.shape == (6, 50, 3)
    assert (targets[:2] != IGNORE).any(2).any(1).all()
    assert (targets[2:] == IGNORE).all()


def test_an_example_longer_than_a_row_is_refused_with_both_lengths_and_the_field() -> None:
    task = task_of(PathStarConfig(2, 4))
    assert task.longest == 3 * 8 + 4 + 4
    TaskBatches(task, config_of(2, 32), 1, CPU).batch(0)
    with pytest.raises(ValueError, match=r"32 tokens.* 31\b.*context_length"):
        TaskBatches(task, config_of(2, 31), 1, CPU).batch(0)


def test_too_few_examples_for_the_rows_are_refused() -> None:
    examples = Numbered(5).examples(1, 0, 100)
    total = sum(map(len, written(examples)))
    assert packed(examples, 4, 20)[0].shape == (4, 20)
    with pytest.raises(ValueError, match=rf"{len(examples)} examples .* {total} rows of 20 tokens"):
        packed(examples, total, 20)


def test_a_step_is_named_by_what_it_depends_on() -> None:
    said = TaskBatches(Numbered(3), config_of(1, 8, seed=5), 1, CPU).where(17)
    assert said == "examples made for seed 5, step 17 (from 0), 1 rows of 8 tokens"

"""Expressions read back from their tokens by a parser of its own and worked out by sympy; and how they are drawn."""

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from plain_examples import p_value, written
from sympy import ZZ
from sympy.polys.galoistools import gf_add, gf_compose, gf_mul, gf_neg, gf_strip

from components.synthetic import polynomials as module
from components.synthetic.config import PolynomialConfig
from components.synthetic.polynomials import Polynomials

SYMBOLS = "-+*@()~=;"
Tree = tuple  # a polynomial's coefficients, or (operator, tree) or (operator, tree, tree)


def words_of(tokens: list[int], p: int) -> list[int | str]:
    return [token if token < p else SYMBOLS[token - p] for token in tokens]


def read(words: Iterator[int | str], d: int) -> Tree:
    """The expression at the beginning of `words`, by recursive descent."""
    word = next(words)
    if word == "-":
        return ("-", read(words, d))
    if word == "(":
        left, operator, right = read(words, d), next(words), read(words, d)
        assert operator in ("+", "*", "@")
        assert next(words) == ")"
        return (operator, left, right)
    polynomial = (word, *itertools.islice(words, d - 1))
    assert len(polynomial) == d
    assert all(isinstance(coefficient, int) for coefficient in polynomial)
    return polynomial


def example_of(words: list[int | str], d: int, pauses: int) -> tuple[Tree, tuple[int, ...]]:
    """The expression and the result of a whole example, of which every symbol is where it should be."""
    rest = iter(words)
    tree = read(rest, d)
    assert [*itertools.islice(rest, pauses + 1)] == [*"~" * pauses, "="]
    answer = tuple(itertools.islice(rest, d))
    assert all(isinstance(coefficient, int) for coefficient in answer)
    assert list(rest) == [";"]
    return tree, answer  # type: ignore[return-value]


def value(tree: Tree, p: int, d: int) -> list[int]:
    """What an expression is, by sympy: over GF(p), the highest coefficient first, cut off at X^d."""
    if isinstance(tree[0], int):
        return gf_strip(ZZ.map(tree[::-1]))
    operator, *parts = tree
    operands = [value(part, p, d) for part in parts]
    of = {"-": gf_neg, "+": gf_add, "*": gf_mul, "@": gf_compose}[operator]
    return gf_strip(of(*operands, p, ZZ)[-d:])


def coefficients(polynomial: list[int], d: int) -> tuple[int, ...]:
    """From the constant upwards, d of them."""
    return tuple(int(c) for c in polynomial[::-1]) + (0,) * (d - len(polynomial))


def operations_in(tree: Tree) -> int:
    return 0 if isinstance(tree[0], int) else 1 + sum(map(operations_in, tree[1:]))


def trees_of(config: PolynomialConfig, count: int, seed: int = 1) -> list[Tree]:
    """Expressions of a training step."""
    task = Polynomials(config)
    some = written(task.examples(seed, 0, count * config.longest))[:count]
    return [read(iter(words_of(tokens, config.p)), config.d) for tokens in some]


def questions_of(examples: list[list[int]], p: int) -> list[tuple[int | str, ...]]:
    """What stands before pauses and equality sign."""
    return [tuple(itertools.takewhile(lambda w: w not in ("~", "="), words_of(tokens, p))) for tokens in examples]


def test_sympy_reads_the_signs_as_they_are_meant() -> None:
    """Over F_5[X]/(X^3), with a = 1 + 2X, b = 3 + X^2: by hand."""
    a, b = (1, 2, 0), (3, 0, 1)
    for tree, result in {
        ("-", a): (4, 3, 0),
        ("+", a, b): (4, 2, 1),
        ("*", a, b): (3, 1, 1),  # 3 + 6X + X^2 (+ 2X^3)
        ("@", a, b): (2, 0, 2),  # 1 + 2 (3 + X^2)
        ("@", b, a): (4, 4, 4),  # 3 + (1 + 2X)^2
    }.items():
        assert coefficients(value(tree, 5, 3), 3) == result


# 10,000 in all
RINGS = [(7, 5, 10, 6000), (5, 2, 10, 2000), (2, 3, 6, 500), (13, 1, 5, 500), (3, 8, 5, 500), (251, 4, 3, 500)]


@pytest.mark.parametrize(("p", "d", "operations", "count"), RINGS)
def test_results_are_those_of_sympy(p: int, d: int, operations: int, count: int) -> None:
    config = PolynomialConfig(p=p, d=d, operations=operations, pauses=operations % 3)
    examples = written(Polynomials(config).examples(1, 0, count * config.longest))[:count]
    assert len(examples) == count
    inner = Counter()
    for tokens in examples:
        tree, answer = example_of(words_of(tokens, p), d, config.pauses)
        assert answer == coefficients(value(tree, p, d), d), Polynomials(config).text(tokens)
        inner.update(each for each in map(str, words_of(tokens, p)) if each in "-+*@")
    assert min(inner[operator] for operator in "-+*@") > count / 4


@pytest.mark.parametrize("pauses", [0, 3])
def test_results_of_the_test_are_those_of_sympy_and_each_part_has_its_number_of_operations(pauses: int) -> None:
    config = PolynomialConfig(p=7, d=3, operations=2, test_operations=7, pauses=pauses)
    test = Polynomials(config).test(100)
    assert [part.name for part in test] == [f"accuracy/m{m}" for m in range(1, 8)]
    for m, part in enumerate(test, start=1):
        for tokens in written(part.examples):
            tree, answer = example_of(words_of(tokens, 7), 3, pauses)
            assert operations_in(tree) == m
            assert answer == coefficients(value(tree, 7, 3), 3)


def test_what_a_person_is_shown_are_right_examples() -> None:
    config = PolynomialConfig(p=11, d=2, pauses=2)
    lines = Polynomials(config).shown().splitlines()
    assert len(lines) == 4
    for line in lines:
        tree, answer = example_of([int(word) if word.isdigit() else word for word in line.split()], 2, pauses=2)
        assert answer == coefficients(value(tree, 11, 2), 2)


def test_the_example_in_the_documentation_is_right() -> None:
    text = (Path(module.__file__).parent / "README.md").read_text(encoding="utf-8")
    found = re.search(r"F_(\d)\[X\]/\(X\^(\d)\) for example `(.+;)`", text)
    assert found
    p, d = int(found[1]), int(found[2])
    tree, answer = example_of([int(word) if word.isdigit() else word for word in found[3].split()], d, pauses=0)
    assert answer == coefficients(value(tree, p, d), d)


def test_numbers_of_operations_are_uniform_in_training() -> None:
    counts = Counter(map(operations_in, trees_of(PolynomialConfig(operations=6), 8000)))
    assert sorted(counts) == [1, 2, 3, 4, 5, 6]
    assert p_value(list(counts.values()), [1] * 6) > 0.001


@pytest.mark.parametrize("operations", [1, 4])
def test_operators_at_the_root_are_uniform_whatever_the_number_of_operations(operations: int) -> None:
    trees = trees_of(PolynomialConfig(operations=operations), 12_000)
    roots = Counter(tree[0] for tree in trees if operations_in(tree) == operations)
    assert sorted(roots) == sorted("-+*@")
    assert p_value(list(roots.values()), [1] * 4) > 0.001


def test_what_is_left_of_the_operations_is_split_uniformly() -> None:
    """At the root, and in the left operand, whose own operations are split once more."""
    trees = [tree for tree in trees_of(PolynomialConfig(operations=4), 12_000) if tree[0] != "-"]
    lefts = Counter(operations_in(tree[1]) for tree in trees if operations_in(tree) == 4)
    assert sorted(lefts) == [0, 1, 2, 3]
    assert p_value(list(lefts.values()), [1] * 4) > 0.001
    within = [tree[1] for tree in trees if operations_in(tree[1]) == 2 and tree[1][0] != "-"]
    lefts = Counter(operations_in(tree[1]) for tree in within)
    assert sorted(lefts) == [0, 1]
    assert p_value(list(lefts.values()), [1] * 2) > 0.001


def test_coefficients_are_uniform_at_every_place() -> None:
    def operands(tree: Tree) -> Iterator[tuple[int, ...]]:
        if isinstance(tree[0], int):
            yield tree
        else:
            for part in tree[1:]:
                yield from operands(part)

    drawn = [each for tree in trees_of(PolynomialConfig(p=5, d=3, operations=3), 5000) for each in operands(tree)]
    for place in range(3):
        counts = Counter(each[place] for each in drawn)
        assert p_value([counts[c] for c in range(5)], [1] * 5) > 0.001


def test_the_longest_example_is_as_long_as_the_config_says() -> None:
    config = PolynomialConfig(p=3, d=2, operations=3, pauses=4)
    lengths = [len(tokens) for tokens in written(Polynomials(config).examples(1, 0, 20_000))]
    assert max(lengths) == config.longest == config.tokens(3) == len("(aa+(aa+(aa+aa)))~~~~=aa;")


@pytest.mark.parametrize("answer_only", [False, True])
def test_in_training_all_tokens_count_or_the_answer_alone(answer_only: bool) -> None:
    config = PolynomialConfig(p=5, d=3, pauses=2, answer_only=answer_only)
    examples = Polynomials(config).examples(1, 0, 2000)
    for tokens, counted in zip(written(examples), examples.counted_EL, strict=True):
        signs = words_of(tokens, 5)
        equals = signs.index("=")
        answer = {equals + 1, equals + 2, equals + 3}
        assert set(counted.nonzero()[0].tolist()) == (answer if answer_only else set(range(len(tokens))))


def test_in_the_test_the_answer_alone_counts_and_only_as_a_whole() -> None:
    for part in Polynomials(PolynomialConfig(p=5, d=3, operations=2, pauses=2, test_operations=3)).test(50):
        assert part.whole
        for tokens, counted in zip(written(part.examples), part.examples.counted_EL, strict=True):
            equals = words_of(tokens, 5).index("=")
            assert counted.nonzero()[0].tolist() == [equals + 1, equals + 2, equals + 3]


def every_question(p: int, d: int) -> set[tuple[int | str, ...]]:
    """All of one operation."""
    polynomials = list(itertools.product(range(p), repeat=d))
    pairs = itertools.product(polynomials, "+*@", polynomials)
    return {("-", *a) for a in polynomials} | {("(", *a, sign, *b, ")") for a, sign, b in pairs}


@pytest.mark.parametrize(("p", "d"), [(2, 1), (3, 2), (5, 2), (7, 1)])
def test_each_question_of_one_operation_is_in_the_test_or_in_training_and_none_is_missing(p: int, d: int) -> None:
    task = Polynomials(PolynomialConfig(p=p, d=d, operations=1, test_operations=1))
    (part,) = task.test(items=5000)
    tested = questions_of(written(part.examples), p)
    trained = {q for step in range(3) for q in questions_of(written(task.examples(1, step, 150_000)), p)}
    every = every_question(p, d)
    assert not trained & set(tested)
    assert trained | set(tested) == every
    if len(every) > 200:
        assert 0.07 < len(set(tested)) / len(every) < 0.13, "one in ten"


def test_there_are_as_many_questions_as_asked() -> None:
    task = Polynomials(PolynomialConfig(p=5, d=2, operations=1, test_operations=1))
    (every,) = task.test(items=4500)
    assert len(every.examples) == 4500
    assert len(task.test(items=1)[0].examples) == 1


def test_the_test_is_drawn_as_training_is() -> None:
    """With a question as often as training would have it: by the operator at the root."""
    (_, part) = Polynomials(PolynomialConfig(p=7, d=4, operations=2, test_operations=2)).test(2000)
    trees = [read(iter(words_of(tokens, 7)), 4) for tokens in written(part.examples)]
    assert p_value(list(Counter(tree[0] for tree in trees).values()), [1] * 4) > 0.001


def whatever_the_order(tree: Tree) -> Tree:
    """The same tree for all that differ in the order of what is added or multiplied."""
    if isinstance(tree[0], int):
        return tree
    operator, *parts = tree
    operands = map(whatever_the_order, parts)
    return (operator, *(sorted(operands, key=repr) if operator in ("+", "*") else operands))


@pytest.mark.parametrize("m", [1, 2, 3])
def test_no_question_of_the_test_is_in_training_with_its_operands_the_other_way_round(m: int) -> None:
    config = PolynomialConfig(p=3, d=1, operations=m, test_operations=m)
    part = Polynomials(config).test(300)[-1]
    tested = {whatever_the_order(read(iter(words_of(tokens, 3)), 1)) for tokens in written(part.examples)}
    trained = {whatever_the_order(tree) for seed in (1, 2) for tree in trees_of(config, 8000, seed)}
    assert len(tested) > 1
    assert not tested & trained


def test_no_question_of_the_test_is_in_training_however_long_and_whatever_the_seed() -> None:
    task = Polynomials(PolynomialConfig(p=2, d=1, operations=3, test_operations=4))
    tested = {q for part in task.test(items=400) for q in questions_of(written(part.examples), 2)}
    trained = Counter(
        question
        for seed in range(4)
        for step in range(10)
        for question in questions_of(written(task.examples(seed, step, 5000)), 2)
    )
    assert len(trained) > 1500, "of the some 3,000 that there are"
    assert not tested & set(trained)


def test_the_test_is_the_same_at_every_call() -> None:
    task = Polynomials(PolynomialConfig(p=3, d=1, operations=2, test_operations=5))
    first, second = ([written(part.examples) for part in task.test(300)] for _ in range(2))
    assert first == second
    assert [len(examples) for examples in first[2:]] == [300, 300, 300]


def test_pauses_and_what_training_has_leave_the_questions_of_the_test_alone() -> None:
    """Figure S15 compares numbers of pauses: on one test."""
    plain = [questions_of(written(part.examples), 7) for part in Polynomials(PolynomialConfig()).test(30)]
    for changed in (PolynomialConfig(pauses=5), PolynomialConfig(operations=2, answer_only=True, pauses=1)):
        assert [questions_of(written(part.examples), 7) for part in Polynomials(changed).test(30)] == plain

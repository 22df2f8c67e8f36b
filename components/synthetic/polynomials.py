"""Arithmetic on polynomials over F_p[X]/(X^d): the ring, expressions in it, and how they are written (paper 4.2).

All by arrays: an expression is grown and evaluated together with all others of a batch.

Shape suffixes: E expressions, N nodes of the largest (operators and operands, in prefix order), O operands, d
coefficients from the constant upwards, S symbols of the longest, L tokens of the longest.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from components.synthetic.config import PolynomialConfig
from components.synthetic.examples import TEST, TRAIN, Array, Examples, Scored, enough, randomness, scattered

NEGATE, ADD, MULTIPLY, COMPOSE = range(4)
SYMBOLS = "-+*@()~=;"
"""Behind the coefficients: the operators in their order, brackets, pause, equality sign, end."""
TEST_SHARE = 10
"""One expression in so many, by its fingerprint, belongs to the test and never to training."""
AT_ONCE = 2000
"""Questions of a test that are drawn at a time, so that many do not take memory."""
OPERAND = -1
"""In a row of symbols: the place of an operand; below it nothing."""


@dataclass(frozen=True)
class Expressions:
    """Expressions as trees in prefix order, and as rows of symbols in infix."""

    node_EN: Array
    """Operators, or OPERAND; below that nothing."""
    operand_EOd: Array
    symbol_ES: Array
    """Places in SYMBOLS, or OPERAND; below that nothing."""


def multiply(a_Ed: Array, b_Ed: Array, p: int) -> Array:
    """The product cut off at X^d."""
    d = a_Ed.shape[1]
    product_Ed = np.zeros_like(a_Ed)
    for i in range(d):
        product_Ed[:, i:] += a_Ed[:, i : i + 1] * b_Ed[:, : d - i]
    return product_Ed % p


def compose(a_Ed: Array, b_Ed: Array, p: int) -> Array:
    """a(b(X)) cut off at X^d, by Horner's rule."""
    result_Ed = np.zeros_like(a_Ed)
    for i in reversed(range(a_Ed.shape[1])):
        result_Ed = multiply(result_Ed, b_Ed, p)
        result_Ed[:, 0] = (result_Ed[:, 0] + a_Ed[:, i]) % p
    return result_Ed


def grow(random: np.random.Generator, operations_E: Array, config: PolynomialConfig) -> Expressions:
    """Expressions with so many operations each: at a root with b operations an operator is drawn uniformly, and one of
    two operands gives a uniform number of the other b - 1 to its left.

    A stack machine for all at once: what is on a stack is either a symbol to write or the number of operations of an
    expression to grow there.
    """
    E, most = len(operations_E), int(operations_E.max())
    steps = 4 * most + 1
    operator_SE = random.integers(0, 4, (steps, E))
    split_SE = random.random((steps, E))
    operand_EOd = random.integers(0, config.p, (E, most + 1, config.d))
    symbol_SE = np.full((steps, E), OPERAND - 1)
    node_NE = np.full((2 * most + 1, E), OPERAND - 1)
    stack_HE = np.zeros((4 * most + 2, E), np.int64)
    stack_HE[0] = operations_E
    height_E, nodes_E, every = np.ones(E, np.int64), np.zeros(E, np.int64), np.arange(E)
    written = -1 - np.arange(len(SYMBOLS))  # symbols on the stack are negative
    bracket_open, bracket_close = SYMBOLS.index("("), SYMBOLS.index(")")
    for step in range(steps):
        live = every[height_E > 0]
        if not len(live):
            break
        height_E[live] -= 1
        top = stack_HE[height_E[live], live]
        literal, leaf = top < 0, top == 0
        symbol_SE[step, live[literal]] = -1 - top[literal]
        symbol_SE[step, live[leaf]] = OPERAND
        inner, budget = live[top > 0], top[top > 0]
        operator = operator_SE[step, inner]
        unary = operator == NEGATE
        symbol_SE[step, inner] = np.where(unary, NEGATE, bracket_open)
        nodes, kind = live[~literal], np.full(len(live), OPERAND)
        kind[top > 0] = operator
        node_NE[nodes_E[nodes], nodes] = kind[~literal]
        nodes_E[nodes] += 1
        one, two = inner[unary], inner[~unary]
        stack_HE[height_E[one], one] = budget[unary] - 1
        height_E[one] += 1
        left = (split_SE[step, two] * budget[~unary]).astype(np.int64)
        for pushed in (written[bracket_close], budget[~unary] - 1 - left, written[operator[~unary]], left):
            stack_HE[height_E[two], two] = pushed
            height_E[two] += 1
    return Expressions(node_NE.T, operand_EOd, symbol_SE.T)


def evaluate(of: Expressions, p: int) -> Array:
    """The results, (E, d)."""

    def joined(operator: int, left_Ed: Array, right_Ed: Array) -> Array:
        if operator == ADD:
            return (left_Ed + right_Ed) % p
        return (multiply if operator == MULTIPLY else compose)(left_Ed, right_Ed, p)

    return _folded(of, of.operand_EOd, lambda operand_Ed: -operand_Ed % p, joined)


def fingerprint(of: Expressions) -> Array:
    """44 bits of every expression, (E,): the same for those that differ in nothing but the order of what is added or
    multiplied, and whatever else is in the batch."""

    def joined(operator: int, left_E: Array, right_E: Array) -> Array:
        if operator != COMPOSE:
            left_E, right_E = np.minimum(left_E, right_E), np.maximum(left_E, right_E)
        return scattered(scattered(left_E) + right_E + np.uint64(operator))

    leaf_EO = np.zeros(of.operand_EOd.shape[:2], np.uint64)
    for place in range(of.operand_EOd.shape[2]):
        leaf_EO = scattered(leaf_EO + of.operand_EOd[:, :, place].astype(np.uint64) + np.uint64(1))
    return _folded(of, leaf_EO, lambda operand_E: scattered(operand_E + np.uint64(1)), joined) >> np.uint64(20)


def _folded(
    of: Expressions, operands: Array, negated: Callable[[Array], Array], joined: Callable[[int, Array, Array], Array]
) -> Array:
    """What the roots come to, (E, ...), from `operands`, (E, O, ...): nodes from the last to the first, each on top of
    what its operands left on a stack."""
    E, N = of.node_EN.shape
    stack = np.zeros((N + 1, E, *operands.shape[2:]), operands.dtype)
    height_E = np.zeros(E, np.int64)
    operands_E = (of.node_EN == OPERAND).sum(1)
    for place in reversed(range(N)):
        node_E = of.node_EN[:, place]
        rows = np.flatnonzero(node_E == OPERAND)
        operands_E[rows] -= 1
        stack[height_E[rows], rows] = operands[rows, operands_E[rows]]
        height_E[rows] += 1
        rows = np.flatnonzero(node_E == NEGATE)
        top = height_E[rows] - 1
        stack[top, rows] = negated(stack[top, rows])
        for operator in (ADD, MULTIPLY, COMPOSE):
            rows = np.flatnonzero(node_E == operator)
            height_E[rows] -= 1
            top = height_E[rows] - 1
            stack[top, rows] = joined(operator, stack[top + 1, rows], stack[top, rows])
    roots: Array = stack[0]
    return roots


class Polynomials:
    """The task."""

    def __init__(self, config: PolynomialConfig) -> None:
        self.config = config

    @property
    def longest(self) -> int:
        return self.config.longest

    def text(self, tokens: Array) -> str:
        """Tokens as a person reads them."""
        p = self.config.p
        return " ".join(str(t) if t < p else SYMBOLS[t - p] for t in tokens.tolist())

    def examples(self, seed: int, step: int, tokens: int) -> Examples:
        config = self.config
        count = max(16, round(1.3 * tokens / config.tokens(1 + config.operations // 2)))

        def draw(random: np.random.Generator) -> Examples:
            operations_E = random.integers(1, config.operations + 1, count)
            return self._drawn(random, operations_E, of_test=False)

        return enough(draw, randomness(seed, TRAIN, step), tokens)

    def test(self, items: int) -> list[Scored]:
        return [
            Scored(f"accuracy/m{m}", self._test_of(m, items), whole=True)
            for m in range(1, self.config.test_operations + 1)
        ]

    def shown(self) -> str:
        few = self.examples(1, 0, 100)
        return "\n".join(self.text(few.tokens_EL[e, : few.length_E[e]]) for e in range(4))

    def _test_of(self, operations: int, items: int) -> Examples:
        random, config = randomness(operations, TEST), self.config
        draws = np.full(4 * TEST_SHARE * min(max(items, 16), AT_ONCE), operations)
        parts: list[Examples] = []
        while sum(len(part) for part in parts) < items:
            parts.append(self._drawn(random, draws, of_test=True))
            if not len(parts[-1]):
                raise ValueError(
                    f"over F_{config.p}[X]/(X^{config.d}) no question of {operations} operations is kept for a test: "
                    "give a larger polynomial.p or polynomial.d"
                )
        found = Examples.joined(parts).take(np.arange(items))
        return replace(found, counted_EL=self._answers(found.tokens_EL, found.length_E))

    def _drawn(self, random: np.random.Generator, operations_E: Array, of_test: bool) -> Examples:
        """Examples of these numbers of operations, without those that belong to the other side."""
        grown = grow(random, operations_E, self.config)
        return self.written(grown).take(np.flatnonzero((fingerprint(grown) % np.uint64(TEST_SHARE) == 0) == of_test))

    def written(self, of: Expressions) -> Examples:
        """Expressions with their results, as tokens."""
        config = self.config
        p, d = config.p, config.d
        result_Ed = evaluate(of, p)
        pause, equals, end = (p + SYMBOLS.index(symbol) for symbol in "~=;")
        E = len(result_Ed)
        width_ES = np.where(of.symbol_ES == OPERAND, d, 1) * (of.symbol_ES >= OPERAND)
        start_ES = np.cumsum(width_ES, 1) - width_ES
        question_E = width_ES.sum(1)
        length_E = question_E + config.pauses + 1 + d + 1
        tokens_EL = np.zeros((E, int(length_E.max())), np.int64)
        row_ES = np.broadcast_to(np.arange(E)[:, None], of.symbol_ES.shape)
        signs = of.symbol_ES >= 0
        tokens_EL[row_ES[signs], start_ES[signs]] = p + of.symbol_ES[signs]
        places = of.symbol_ES == OPERAND
        number_ES = np.cumsum(places, 1) - 1
        rows, at, number = row_ES[places], start_ES[places], number_ES[places]
        for i in range(d):
            tokens_EL[rows, at + i] = of.operand_EOd[rows, number, i]
        every = np.arange(E)
        for i in range(config.pauses):
            tokens_EL[every, question_E + i] = pause
        tokens_EL[every, question_E + config.pauses] = equals
        for i in range(d):
            tokens_EL[every, question_E + config.pauses + 1 + i] = result_Ed[:, i]
        tokens_EL[every, length_E - 1] = end
        counted_EL = np.arange(tokens_EL.shape[1]) < length_E[:, None]
        if config.answer_only:
            counted_EL = self._answers(tokens_EL, length_E)
        return Examples(tokens_EL, length_E, counted_EL)

    def _answers(self, tokens_EL: Array, length_E: Array) -> Array:
        """Where the result's coefficients are."""
        behind_EL = length_E[:, None] - 1 - np.arange(tokens_EL.shape[1])
        return (behind_EL > 0) & (behind_EL <= self.config.d)

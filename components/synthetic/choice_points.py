"""What the multi-token loss weighs: terms tied to a transition, and information shared by tokens (paper section 5).

Two arguments of the paper, each as something that can be counted or computed. Section 5.1 and Appendix L.3: of the
terms of an n-token loss more belong to a transition that decides what follows than to one that does not. Section 5.2
and Appendix L.2: two entropies that are added hold what their variables share twice. The paper calls a transition a
choice point if the states that it can lead to differ much in value under the policy; here it is all or nothing: either
all that follows is decided by it, or nothing is.

All information is in nats. Shape suffixes: S sequences, L tokens of a sequence, X and Y values of two variables.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from components.synthetic.examples import Array


class Term(NamedTuple):
    """One cross entropy of the loss: at a position, of the token so many ahead."""

    position: int
    """The last token that is seen, from 0."""
    ahead: int
    """From 1 to n: head `ahead - 1` of `components.training.loss`."""

    @property
    def target(self) -> int:
        """The token predicted, from 0; the prediction crosses the transitions position + 1, ..., target."""
        return self.position + self.ahead


def loss_terms(n: int, length: int) -> list[Term]:
    """All terms of the n-token loss on one sequence: those whose target lies in it."""
    terms = (Term(position, ahead) for position in range(length) for ahead in range(1, n + 1))
    return [term for term in terms if term.target < length]


def tied_terms(n: int, transition: int, length: int, consequential: bool = True) -> list[Term]:
    """The terms of the n-token loss that one transition decides (paper 5.1, L.3 and Figure 9).

    Transition s leads from token s - 1 to token s, 0 < s < length. A term is counted if its target would be another
    token had the transition gone another way, and its position lies before, where that is still open; behind it the
    way taken is seen.

    `consequential`: token s and all that follow would be others, so counted is every prediction that crosses the
    transition: heads 1 to n at the position just before, 2 to n one earlier, only n at s - n. Else the other way comes
    back at once and token s alone would be another: counted is what predicts just that, one term a head.

    Edges: a term needs a position and a target in the sequence. Short of either are transitions with fewer than n
    tokens before them and, where consequential, fewer than n from token s on; at the very last token there are no
    consequences left to predict and both kinds have as many terms.

    All terms count alike. In the loss, a sum of means by head, they weigh alike where all heads have as many targets.

    ValueError where the sequence has no such transition.
    """
    if not 0 < transition < length:
        raise ValueError(f"transition is {transition}; {length} tokens have transitions 1 to {length - 1}")
    return [
        term
        for term in loss_terms(n, length)
        if term.position < transition and (term.target >= transition if consequential else term.target == transition)
    ]


@dataclass(frozen=True)
class ChoiceTask:
    """Sequences of which two transitions are open, one without and one with consequences; all else is fixed.

    `run` fixed tokens; a detail, one of `ways` tokens; `run` fixed tokens again, whatever the detail was; a choice, one
    of `ways` continuations of `run` tokens each, which share no token. Both are uniform and independent.
    """

    ways: int = 4
    run: int = 4
    """With `run` of at least n no term of either transition is lost at the edges."""

    @property
    def detail(self) -> int:
        """The transition without consequences, as `tied_terms` numbers it."""
        return self.run

    @property
    def choice(self) -> int:
        """The transition that decides all that follows."""
        return 2 * self.run + 1

    @property
    def vocabulary_size(self) -> int:
        """Symbols: those of the runs, of the detail and of the continuations."""
        return 2 * self.run + self.ways + self.ways * self.run

    def sequences(self) -> Array:
        """sequences_SL, int64: every sequence once. As all are equally likely, they are the task's distribution itself
        and no sample of it: a mean over them is an expectation."""
        fixed = np.arange(2 * self.run)
        details = 2 * self.run + np.arange(self.ways)
        continuations = 2 * self.run + self.ways + np.arange(self.ways * self.run).reshape(self.ways, self.run)
        return np.array(
            [
                [*fixed[: self.run], detail, *fixed[self.run :], *continuation]
                for detail in details
                for continuation in continuations
            ]
        )


def ideal_loss(sequences_SL: Array, n: int) -> dict[Term, float]:
    """The expected n-token loss of one who knows that these sequences are equally likely, in nats a term.

    It is the entropy of the term's target given all tokens up to its position, less than which no model can have.
    """
    S, L = sequences_SL.shape
    loss: dict[Term, float] = {}
    for term in loss_terms(n, L):
        tokens, target_S = np.unique(sequences_SL[:, term.target], return_inverse=True)
        prefixes, prefix_S = np.unique(sequences_SL[:, : term.position + 1], axis=0, return_inverse=True)
        p_XY = np.zeros((len(tokens), len(prefixes)))
        np.add.at(p_XY, (target_S, prefix_S), 1 / S)
        loss[term] = conditional_entropy(p_XY)
    return loss


def entropy(p: Array) -> float:
    """H(p) = -sum p log p of a distribution given as a table of any shape; 0 log 0 is 0."""
    return cross_entropy(p, p)


def cross_entropy(p: Array, q: Array) -> float:
    """H(p, q) = -sum p log q of two tables of one shape: what data p costs a model q; infinite where q rules out what
    happens."""
    _check(p, q)
    return -_mean_log(p, q)


def relative_entropy(p: Array, q: Array) -> float:
    """D(p || q) = sum p log(p / q): what q costs beyond H(p)."""
    _check(p, q)
    return _mean_log(p, p) - _mean_log(p, q)


def conditional_entropy(p_XY: Array) -> float:
    """H(X|Y) = -sum p(x, y) log p(x|y). H(Y|X) is that of `p_XY.T`."""
    return conditional_cross_entropy(p_XY, p_XY)


def conditional_cross_entropy(p_XY: Array, q_XY: Array) -> float:
    """H(p_X|Y, q_X|Y) = -sum p(x, y) log q(x|y), pairs drawn from p (paper L.2)."""
    _check(p_XY, q_XY)
    q_Y = np.broadcast_to(q_XY.sum(0), q_XY.shape)
    return _mean_log(p_XY, q_Y) - _mean_log(p_XY, q_XY)


def mutual_information(p_XY: Array) -> float:
    """I(X; Y) = D(p || p_X x p_Y), what X and Y tell of each other.

    Paper 5.2: H(X) + H(Y) = H(X|Y) + 2 I(X; Y) + H(Y|X). To predict X and Y from the position before is to weigh what
    they share twice; H(Y|X) comes once more at the next position, whose own next token Y is.
    """
    return relative_entropy(p_XY, _product(p_XY))


def relative_mutual_information(p_XY: Array, q_XY: Array) -> float:
    """I_p||q(X; Y) = D(p || q_X x q_Y) - D(p || q), q_X and q_Y the marginals of q (paper L.2).

    How much better the model q does on data p for the dependence it sees between X and Y: at q = p the mutual
    information, below 0 where p has less of that dependence, or another. The lemma is
    H(p_X, q_X) = H(p_X|Y, q_X|Y) + I_p||q(X; Y), and the same with X and Y exchanged.

    ValueError where q rules out what happens in p: the difference need not exist.
    """
    _check(p_XY, q_XY)
    if np.any((p_XY > 0) & (q_XY == 0)):
        raise ValueError("q is 0 where p is not; relative mutual information needs q above 0 there")
    return relative_entropy(p_XY, _product(q_XY)) - relative_entropy(p_XY, q_XY)


def _product(p_XY: Array) -> Array:
    """The distribution of independent variables with the same marginals."""
    return np.outer(p_XY.sum(1), p_XY.sum(0))


def _mean_log(p: Array, q: Array) -> float:
    """sum p log q; what never happens in p adds nothing, whatever q says of it."""
    happens = p > 0
    with np.errstate(divide="ignore"):  # minus infinity is the answer where q is 0
        return float(p[happens] @ np.log(q[happens]))


def _check(*tables: Array) -> None:
    """ValueError unless all are distributions, of one shape: counts would give numbers that look like information."""
    for table in tables:
        if table.shape != tables[0].shape:
            raise ValueError(f"tables of shapes {tables[0].shape} and {table.shape}; they must be equal")
        if not (np.all(table >= 0) and abs(table.sum() - 1) < 1e-6):
            raise ValueError(f"a table sums up to {table.sum()}; a distribution has no entry below 0 and the sum 1")

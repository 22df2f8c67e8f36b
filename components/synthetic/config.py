"""What a task is: everything that decides its examples. Standard library alone, so that a plan needs no torch."""

import math
from dataclasses import dataclass

from components.model.config import ModelConfig
from components.training.config import TrainingConfig, check_heads


@dataclass(frozen=True)
class InductionConfig:
    """Stories whose characters have names of two tokens, made up by a seeded generator (paper 4.1 and Appendix J).

    A sentence is a name, words from a bigram chain and a stop; a story has a few characters. Names of training are
    known pairs, frequent and rare ones as in language; those of a test are fresh pairs of the same tokens, so that the
    second token can be told from the story alone.
    """

    names: int = 1000
    """Names that training knows."""
    first_tokens: int = 200
    """Symbols that a name can begin with."""
    second_tokens: int = 200
    """Symbols that a name can end with."""
    zipf: float = 1.0
    """The k-th name is drawn in proportion to k to the power of minus this; a story's are drawn without replacement."""
    words: int = 400
    """Symbols of the text between names."""
    successors: int = 8
    """Words that can follow a word in the bigram chain."""
    words_per_sentence: int = 4
    """Words between a name and the stop."""
    characters: int = 2
    """Names in a story."""
    sentences: int = 16
    """Sentences in a story."""

    def __post_init__(self) -> None:
        faults = _below(
            self, names=1, first_tokens=2, second_tokens=2, words=2, successors=1, words_per_sentence=1, characters=1
        ) + _below(self, sentences=2)
        if not 0 <= self.zipf <= 10:
            faults.append(f"zipf is {self.zipf}; it must lie in [0, 10]")
        if not faults:
            if self.names > (there := self.first_tokens * self.second_tokens) // 2:
                faults.append(
                    f"names is {self.names}, of {there} pairs of first_tokens and second_tokens; at most half of them, "
                    "so that there are fresh ones"
                )
            if self.characters > (most := min(self.names, self.first_tokens)):
                faults.append(
                    f"characters is {self.characters}, more than there are names or first tokens: at most {most}"
                )
            if self.successors > self.words:
                faults.append(f"successors is {self.successors}, more than there are words ({self.words})")
        _refuse(faults)

    @property
    def sentence_tokens(self) -> int:
        """Tokens of a sentence: a name, the words, the stop."""
        return 2 + self.words_per_sentence + 1

    @property
    def setting(self) -> str:
        """The task in a sentence."""
        return (
            f"Stories of {self.sentences} sentences on {self.characters} characters with names of two tokens; training "
            f"knows {self.names:,} names, and the test has fresh ones."
        )

    @property
    def longest(self) -> int:
        """Tokens of a story."""
        return 1 + self.sentences * self.sentence_tokens

    @property
    def vocabulary_size(self) -> int:
        """Story mark, stop, first and second tokens of names, words."""
        return 2 + self.first_tokens + self.second_tokens + self.words


@dataclass(frozen=True)
class PolynomialConfig:
    """Arithmetic on polynomials over F_p[X]/(X^d) (paper 4.2 and Appendix K).

    The paper leaves open how an expression is written. Here: infix in full brackets, a polynomial as its coefficients
    from the constant upwards, a symbol each; `(a+b)`, `(a*b)`, `(a@b)` for a(b(X)), `-a`; pauses, `=`, and the result.
    An expression of m operations has an operator drawn uniformly at its root and, if that takes two operands, a uniform
    split of the other m - 1. Composition is that of the representatives of degree below d, cut off at X^d, as the
    quotient has none of its own.
    """

    p: int = 7
    """Prime: coefficients are integers modulo p."""
    d: int = 5
    """Coefficients of a polynomial."""
    operations: int = 5
    """Most operations of an expression in training; their number is uniform from 1 up."""
    test_operations: int = 10
    """Most operations in the test, which has expressions of each number of operations."""
    pauses: int = 0
    """Pause symbols before the equality sign (paper Figure S15: 0, 5 and 10)."""
    answer_only: bool = False
    """Whether only the answer's tokens count in the loss; else all, as the paper's words suggest."""

    def __post_init__(self) -> None:
        faults = _below(self, p=2, d=1, operations=1, test_operations=max(self.operations, 1), pauses=0)
        if self.p > 251 or any(self.p % q == 0 for q in range(2, math.isqrt(max(self.p, 0)) + 1)):
            faults.append(f"p is {self.p}; it must be a prime, at most 251")
        _refuse(faults)

    @property
    def vocabulary_size(self) -> int:
        """Coefficients, then `-`, `+`, `*`, `@`, brackets, pause, equality sign, end."""
        return self.p + 9

    @property
    def setting(self) -> str:
        """The task in a sentence."""
        counted = ", the loss on the answer alone" if self.answer_only else ""
        pauses = f", {self.pauses} pauses before the answer" if self.pauses else ""
        return (
            f"Expressions over F_{self.p}[X]/(X^{self.d}) of 1 to {self.operations} operations{pauses}{counted}; those "
            "of the test are never in training."
        )

    @property
    def longest(self) -> int:
        """Most tokens that an example of training can have; longer ones of the test are never packed."""
        return self.tokens(self.operations)

    def tokens(self, operations: int) -> int:
        """Most tokens that an example with so many operations can have, its end included."""
        return operations * 3 + (operations + 1) * self.d + self.pauses + 1 + self.d + 1


@dataclass(frozen=True)
class PathStarConfig:
    """A path in a star of paths (Bachmann & Nagarajan 2024, section 4.1): `arms` paths leave one node, and given the
    edges in random order, the start and the end of one path, its nodes are to be listed.

    The first node behind the start is the hard one: it takes the whole path to know it, while every later one follows
    from the edge at the node before.
    """

    arms: int = 2
    """Paths that leave the start: the share of right first steps by guessing is one in so many."""
    edges: int = 4
    """Edges of a path: nodes behind the start."""
    nodes: int = 30
    """Symbols that nodes are named by, afresh in every example."""
    answer_only: bool = True
    """Whether only the path counts in the loss; the rest of an example is random."""

    def __post_init__(self) -> None:
        faults = _below(self, arms=2, edges=2)
        if self.nodes < (needed := self.arms * self.edges + 1):
            faults.append(f"nodes is {self.nodes}; {self.arms} arms of {self.edges} edges have {needed} nodes")
        _refuse(faults)

    @property
    def vocabulary_size(self) -> int:
        """Nodes, then the mark between edges, the question's and the equality sign."""
        return self.nodes + 3

    @property
    def setting(self) -> str:
        """The task in a sentence."""
        counted = ", the loss on the path alone" if self.answer_only else ""
        return (
            f"{self.arms} paths of {self.edges} edges leave one node, of {self.nodes} names; given the edges in random "
            f"order and the ends of a path, it is to be listed{counted}. Graphs of the test are never in training."
        )

    @property
    def longest(self) -> int:
        """Tokens of an example: edges with a mark behind each, question, start, end, equality sign, path."""
        return 3 * self.arms * self.edges + 4 + self.edges


TaskConfig = InductionConfig | PolynomialConfig | PathStarConfig


@dataclass(frozen=True)
class TextConfig:
    """A text's language (bits per byte), and on stories induction with the names of the test split replaced."""

    heldout_tokens: int = 32_768
    """Tokens of the test split whose bits per byte are measured; 0: none."""
    stories: int = 0
    """Stories of the test split whose characters are given fresh names (paper 4.1: 100); 0: none."""
    stories_of: str | None = None
    """Of a mixture, the part that these stories are taken from, and whose words tell names; null: any."""

    def __post_init__(self) -> None:
        faults = _below(self, heldout_tokens=0, stories=0)
        if self.heldout_tokens == self.stories == 0:
            faults.append("heldout_tokens and stories are both 0; one of them must be measured")
        _refuse(faults)

    @property
    def setting(self) -> str:
        """The task in a sentence."""
        told = ["bits per byte of unseen text"] * (self.heldout_tokens > 0)
        told += ["names of two tokens in unseen stories, given afresh"] * (self.stories > 0)
        return f"Text; measured on {' and '.join(told)}."


@dataclass(frozen=True)
class StoriesConfig:
    """Stories of a corpus's test split whose characters are given fresh names."""

    stories: int
    """How many, or as many as there are."""
    part: str | None
    """Of a mixture, the part that they are taken from; None: any."""


@dataclass(frozen=True)
class TextCellConfig:
    """One training of a grid on text, and its test."""

    text: TextConfig
    """What is measured."""
    model: ModelConfig
    """The model's shape."""
    training: TrainingConfig
    """Optimization."""
    look_every: int
    """Steps between two times that the test is taken."""

    def __post_init__(self) -> None:
        check_heads(self.training, self.model.n_future_tokens)


@dataclass(frozen=True)
class CellConfig:
    """One training of a grid and its test."""

    task: TaskConfig
    """What is learned."""
    model: ModelConfig
    """The model's shape."""
    training: TrainingConfig
    """Optimization; `context_length` is the length of a row of examples."""
    look_every: int
    """Steps between two times that the test is taken."""
    test_items: int
    """Examples in each part of the test."""

    def __post_init__(self) -> None:
        check_heads(self.training, self.model.n_future_tokens)


def _below(config: object, **least: int) -> list[str]:
    """A sentence on every field that is below the least it may be."""
    return [
        f"{name} is {getattr(config, name)}; it must be at least {low}"
        for name, low in least.items()
        if getattr(config, name) < low
    ]


def _refuse(faults: list[str]) -> None:
    if faults:
        raise ValueError("\n".join(faults))

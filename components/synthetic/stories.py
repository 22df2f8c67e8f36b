"""Induction on stories that people wrote: the test of paper 4.1 from a corpus's test split, with any tokenizer whose
pieces can spell a name in two.

A character's name is taken to be a capitalised word that stands twice or more in a story, and that the texts write
without a capital much less often than with one amid a sentence. Each is replaced by a made-up name of two pieces that
occurs in no text read, the same one throughout the story.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from components.synthetic.examples import TEST, Examples, Scored, randomness
from components.tokenizer.codec import Codec

AMID_A_SENTENCE = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]+\b")
WORD = re.compile(r"\b[A-Za-z][a-z]+\b")
CAPITALS_PER_SMALL = 10
"""A name is written with a capital, amid a sentence, at least so many times for each time without."""
TRIES = 50
"""Made-up names tried for one of a story's before it is given up."""


@dataclass(frozen=True)
class Words:
    """Which words texts have, and how they write them."""

    capital: Counter[str]
    """Capitalised amid a sentence."""
    every: Counter[str]

    @staticmethod
    def of(texts: Iterable[str]) -> "Words":
        capital, every = Counter[str](), Counter[str]()
        for text in texts:
            capital.update(AMID_A_SENTENCE.findall(text))
            every.update(WORD.findall(text))
        return Words(capital, every)

    def is_name(self, word: str) -> bool:
        """Whether a capitalised word is a name."""
        return self.capital[word] > CAPITALS_PER_SMALL * self.every[word.lower()]


class Names:
    """Made-up names of two pieces of a tokenizer. ValueError where it has too few pieces for that."""

    def __init__(self, codec: Codec, known: Words) -> None:
        pieces = [codec.decode_bytes([token]) for token in range(codec.vocabulary_size)]
        self.first = [t for t, piece in enumerate(pieces) if re.fullmatch(rb" [A-Z][a-z]*", piece)]
        self.second = [t for t, piece in enumerate(pieces) if re.fullmatch(rb"[a-z]{2,}", piece)]
        self.pieces, self.known = pieces, known
        if min(len(self.first), len(self.second)) < 10:
            raise ValueError(
                f"names of two tokens cannot be made up: the tokenizer has {len(self.first)} pieces that begin a name "
                f"and {len(self.second)} that end one; take sentencepiece with a vocabulary of some thousands"
            )

    def draw(self, random: np.random.Generator) -> tuple[str, int, int]:
        """A name that no text has, and its tokens."""
        while True:
            first, second = int(random.choice(self.first)), int(random.choice(self.second))
            name = (self.pieces[first] + self.pieces[second]).decode().strip()
            if not self.known.every[name]:
                return name, first, second


def stories_test(
    texts: Iterable[str], known: Words, codec: Codec, items: int, longest: int
) -> tuple[list[Scored], list[str]]:
    """The test of the first `items` stories that have a name in them, and these stories as they were made.

    Counted is the second token of each occurrence of a made-up name but the first, wherever the tokenizer cuts the name
    in its two tokens there. Stories are cut after `longest` tokens. ValueError when there is none.
    """
    names, random = Names(codec, known), randomness(0, TEST)
    found: list[tuple[list[int], list[int], str]] = []
    for text in texts:
        if (made := _renamed(text, known, names, codec, random)) is not None:
            tokens, places, story = made
            if places := [place for place in places if place < longest]:
                found.append((tokens[:longest], places, story))
        if len(found) == items:
            break
    if not found:
        raise ValueError(
            "no story of the test split has a name that occurs twice; give a corpus of stories, as corpus=tinystories"
        )
    return [Scored("accuracy", _examples(found), whole=False)], [story for _, _, story in found]


def _renamed(
    text: str, known: Words, names: Names, codec: Codec, random: np.random.Generator
) -> tuple[list[int], list[int], str] | None:
    """A story's tokens with its names replaced, the places that count, and the story; None where it has no name, or
    none that the tokenizer would cut in two."""
    counts = Counter(WORD.findall(text))
    pairs: list[tuple[int, int]] = []
    for word in [word for word, count in counts.items() if count > 1 and word[0].isupper() and known.is_name(word)]:
        for _ in range(TRIES):
            name, *pair = names.draw(random)
            changed = re.sub(rf"\b{word}\b", name, text)
            if (pair[0], pair[1]) not in pairs and len(list(_occurrences(codec.encode(changed), *pair))) > 1:
                text = changed
                pairs.append((pair[0], pair[1]))
                break
    tokens = [codec.bos_id, *codec.encode(text)]
    places = [place for pair in pairs for place in list(_occurrences(tokens, *pair))[1:]]
    return (tokens, sorted(places), text) if places else None


def _occurrences(tokens: Sequence[int], first: int, second: int) -> Iterator[int]:
    """Places of second tokens."""
    yield from (i + 1 for i, (a, b) in enumerate(pairwise(tokens)) if (a, b) == (first, second))


def _examples(found: Sequence[tuple[list[int], list[int], str]]) -> Examples:
    length_E = np.array([len(tokens) for tokens, _, _ in found])
    tokens_EL = np.zeros((len(found), int(length_E.max())), np.int64)
    counted_EL = np.zeros(tokens_EL.shape, bool)
    for row, (tokens, places, _) in enumerate(found):
        tokens_EL[row, : len(tokens)] = tokens
        counted_EL[row, places] = True
    return Examples(tokens_EL, length_E, counted_EL)

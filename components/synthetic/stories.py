"""Induction on stories that people wrote: the test of paper 4.1 from a corpus's test split, with any tokenizer whose
pieces can spell a name in two.

A character's name is taken to be a capitalised word that stands twice or more in a story, and that the texts write
without a capital much less often than with one amid a sentence. Each is replaced by a made-up name of two pieces, the
same one throughout the story, that is no word of the texts that names are looked for in, and whose first piece stands
nowhere else in the story: so what follows it can be told. Its two pieces may stand together within a longer word.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice, pairwise
from pathlib import Path

import numpy as np

from components.corpus.reader import read_row_group, row_groups
from components.synthetic.examples import TEST, Examples, Scored, randomness
from components.tokenizer.codec import Codec

AMID_A_SENTENCE = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]+\b")
WORD = re.compile(r"\b[A-Za-z][a-z]+\b")
CAPITALS_PER_SMALL = 10
"""A name is written with a capital, amid a sentence, at least so many times for each time without."""
FILE = "stories.jsonl"
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
        """A name that is no word of the texts, and its tokens."""
        while True:
            first, second = int(random.choice(self.first)), int(random.choice(self.second))
            name = (self.pieces[first] + self.pieces[second]).decode().strip()
            if not self.known.every[name]:
                return name, first, second


@dataclass(frozen=True)
class Renamed:
    """A story with made-up names."""

    text: str
    tokens: list[int]
    counted: list[int]
    """Places of second tokens of names, from the second time on that a name occurs as these two tokens."""


def renamed_stories(texts: Iterable[str], known: Words, codec: Codec, items: int) -> list[Renamed]:
    """The first `items` stories that have a name in them, each name replaced throughout by a made-up one.

    ValueError when there is none.
    """
    names, random = Names(codec, known), randomness(0, TEST)
    found = (made for text in texts if (made := _renamed(text, known, names, codec, random)))
    stories = list(islice(found, items))
    if not stories:
        raise ValueError(
            "no story of the test split has a name that occurs twice; give a corpus of stories, as corpus=tinystories"
        )
    return stories


def _renamed(text: str, known: Words, names: Names, codec: Codec, random: np.random.Generator) -> Renamed | None:
    """None where a text has no name, or none that the tokenizer would cut in two."""
    counts = Counter(WORD.findall(text))
    pairs: dict[int, int] = {}
    for word in [word for word, count in counts.items() if count > 1 and word[0].isupper() and known.is_name(word)]:
        for _ in range(TRIES):
            name, first, second = names.draw(random)
            changed = re.sub(rf"\b{word}\b", name, text)
            tokens = codec.encode(changed)
            if tokens.count(first) == len(list(_occurrences(tokens, first, second))) > 1:
                text, pairs[first] = changed, second
                break
    tokens = [codec.bos_id, *codec.encode(text)]
    counted = [place for pair in pairs.items() for place in list(_occurrences(tokens, *pair))[1:]]
    return Renamed(text, tokens, sorted(counted)) if counted else None


def _occurrences(tokens: Sequence[int], first: int, second: int) -> Iterator[int]:
    """Places of second tokens."""
    yield from (i + 1 for i, (a, b) in enumerate(pairwise(tokens)) if (a, b) == (first, second))


def write_stories(stories: Sequence[Renamed], directory: Path) -> str:
    """`stories.jsonl` (layout: artifacts.Stories); returns its digest."""
    lines = "".join(json.dumps(asdict(story)) + "\n" for story in stories)
    (directory / FILE).write_text(lines, encoding="utf-8")
    return hashlib.sha256(lines.encode()).hexdigest()


def read_stories(directory: Path, longest: int) -> Scored:
    """The test of these stories, each cut after `longest` tokens. ValueError where no name comes twice before that."""
    lines = (directory / FILE).read_text(encoding="utf-8").splitlines()
    stories = [(story["tokens"][:longest], story["counted"]) for story in map(json.loads, lines)]
    length_E = np.array([len(tokens) for tokens, _ in stories])
    tokens_EL = np.zeros((len(stories), int(length_E.max())), np.int64)
    counted_EL = np.zeros(tokens_EL.shape, bool)
    for row, (tokens, places) in enumerate(stories):
        tokens_EL[row, : len(tokens)] = tokens
        counted_EL[row, [place for place in places if place < len(tokens)]] = True
    if not counted_EL.any():
        raise ValueError(
            f"no name comes twice in the first {longest} tokens of a story; raise sizes.NAME.training.context_length"
        )
    return Scored("accuracy", Examples(tokens_EL, length_E, counted_EL), whole=False)


def texts_of(corpus: Path, split: str, part: str | None) -> Iterator[str]:
    """A split's texts; of a mixture those of a part, whose name the ids begin with."""
    for file, group in row_groups(corpus, split):
        for name, text in zip(*read_row_group(corpus, file, group, "id", "text"), strict=True):
            if part is None or name.startswith(f"{part}/"):
                yield text

"""Stories with names of two tokens: whether a model learns to copy (paper 4.1 and Appendix J).

Shape suffixes: E stories, C characters of a story, N sentences, W words of a sentence, L tokens of a story.
"""

import numpy as np

from components.synthetic.config import InductionConfig
from components.synthetic.examples import TEST, TRAIN, Array, Examples, Scored, enough, randomness

STORY, STOP = 0, 1
"""Symbols: a story's first, a sentence's last. Then the first and the second tokens of names, then words."""
LANGUAGE = 20240430
"""Seed of what every training shares: the names that are known, and which words follow which."""


class Induction:
    """The task."""

    def __init__(self, config: InductionConfig) -> None:
        self.config = config
        random = np.random.default_rng(LANGUAGE)
        pairs = config.first_tokens * config.second_tokens
        self.known_N = random.choice(pairs, config.names, replace=False)
        """Names of training, the most frequent first, as first * second_tokens + second."""
        first_N, second_N = np.divmod(self.known_N, config.second_tokens)
        every_FS = np.unique(first_N)[:, None] * config.second_tokens + np.unique(second_N)
        self.fresh = [fresh for row in every_FS if len(fresh := np.setdiff1d(row, self.known_N))]
        """Pairs of tokens that training has, but not together, by their first token."""
        if len(self.fresh) < config.characters:
            raise ValueError(
                f"names is {config.names}: they leave fresh names of {len(self.fresh)} first tokens for "
                f"{config.characters} characters; give fewer, or more second_tokens"
            )
        share = 1.0 / np.arange(1, config.names + 1) ** config.zipf
        self.share_N = share / share.sum()
        self.follow_WF = np.stack(
            [random.choice(config.words, config.successors, replace=False) for _ in range(config.words)]
        )
        self.chance_F = random.dirichlet(np.full(config.successors, 1.0))

    @property
    def longest(self) -> int:
        return self.config.longest

    def examples(self, seed: int, step: int, tokens: int) -> Examples:
        count = -(-tokens // self.longest) + 1
        return enough(lambda random: self._stories(random, count, fresh=False), randomness(seed, TRAIN, step), tokens)

    def test(self, items: int) -> list[Scored]:
        return [
            Scored(name, self._scored(self._stories(randomness(purpose, TEST), items, fresh)), whole=False)
            for purpose, (name, fresh) in enumerate((("accuracy", True), ("accuracy_known", False)))
        ]

    def text(self, tokens: Array) -> str:
        """Tokens as a person reads them: `A7 b3 w12 … .`, a name being a capital and a small letter with numbers."""
        first, second = 2, 2 + self.config.first_tokens
        word = second + self.config.second_tokens
        return " ".join(
            ("<story>", ".")[t]
            if t < first
            else f"A{t - first}"
            if t < second
            else f"b{t - second}"
            if t < word
            else f"w{t - word}"
            for t in tokens.tolist()
        )

    def shown(self) -> str:
        return self.text(self._stories(randomness(1, TRAIN), 1, fresh=False).tokens_EL[0])

    def _stories(self, random: np.random.Generator, count: int, fresh: bool) -> Examples:
        """Stories whose names are known ones, or `fresh` pairs."""
        config = self.config
        E, C, N, W = count, config.characters, config.sentences, config.words_per_sentence
        cast_EC = self._fresh(random, E) if fresh else self._known(random, E)
        who_EN = random.integers(0, C, (E, N))
        name_EN = np.take_along_axis(cast_EC, who_EN, 1)
        word_ENW = np.empty((E, N, W), np.int64)
        word = random.integers(0, config.words, E)
        next_ENW = random.choice(config.successors, (E, N, W), p=self.chance_F)
        for n in range(N):
            for w in range(W):
                word = self.follow_WF[word, next_ENW[:, n, w]]
                word_ENW[:, n, w] = word
        sentence_ENL = np.empty((E, N, config.sentence_tokens), np.int64)
        sentence_ENL[..., 0] = 2 + name_EN // config.second_tokens
        sentence_ENL[..., 1] = 2 + config.first_tokens + name_EN % config.second_tokens
        sentence_ENL[..., 2:-1] = 2 + config.first_tokens + config.second_tokens + word_ENW
        sentence_ENL[..., -1] = STOP
        tokens_EL = np.concatenate((np.full((E, 1), STORY), sentence_ENL.reshape(E, -1)), 1)
        length_E = np.full(E, tokens_EL.shape[1])
        return Examples(tokens_EL, length_E, np.ones(tokens_EL.shape, bool))

    def _known(self, random: np.random.Generator, count: int) -> Array:
        """Different names of training for every story (E, C)."""
        config = self.config
        score_EN = np.log(self.share_N) + random.gumbel(size=(count, config.names))  # the largest: without replacement
        chosen_EC = np.argpartition(-score_EN, config.characters - 1, axis=1)[:, : config.characters]
        return self.known_N[chosen_EC]

    def _fresh(self, random: np.random.Generator, count: int) -> Array:
        """Pairs that training does not have, of tokens that it has, with different first tokens within a story (E, C):
        else a first token would not tell which second one follows."""
        score_EF = random.random((count, len(self.fresh)))
        chosen_EC = np.argpartition(score_EF, self.config.characters - 1, axis=1)[:, : self.config.characters]
        many_F = np.array([len(of) for of in self.fresh])
        place_EC = (random.random(chosen_EC.shape) * many_F[chosen_EC]).astype(np.int64)
        start_F = np.cumsum(many_F) - many_F
        cast_EC: Array = np.concatenate(self.fresh)[start_F[chosen_EC] + place_EC]
        return cast_EC

    def _scored(self, stories: Examples) -> Examples:
        """Counted: the second token of every occurrence of a name but its first in the story."""
        config = self.config
        sentence_ENL = stories.tokens_EL[:, 1:].reshape(len(stories), config.sentences, -1)
        name_EN = sentence_ENL[..., 0] * config.vocabulary_size + sentence_ENL[..., 1]
        again_EN = np.stack([(name_EN[:, :n] == name_EN[:, n : n + 1]).any(1) for n in range(config.sentences)], 1)
        counted_EL = np.zeros(stories.tokens_EL.shape, bool)
        counted_EL[:, 2 :: config.sentence_tokens] = again_EN
        return Examples(stories.tokens_EL, stories.length_E, counted_EL)

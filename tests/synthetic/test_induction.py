"""Stories: what is in them, and what players that copy, count or remember get right of the test."""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, pairwise

import numpy as np
import pytest
from plain_examples import p_value, written

from components.synthetic.config import InductionConfig
from components.synthetic.examples import Scored
from components.synthetic.induction import Induction

CONFIG = InductionConfig(names=800, first_tokens=100, second_tokens=80, words=60, successors=4)
SENTENCE = 2 + CONFIG.words_per_sentence + 1
Name = tuple[int, int]


def stories_of(config: InductionConfig, count: int, seed: int = 1) -> list[list[int]]:
    """Stories of a training step."""
    return written(Induction(config).examples(seed, 0, count * config.longest))[:count]


def sentences_of(story: list[int], config: InductionConfig = CONFIG) -> list[list[int]]:
    length = config.words_per_sentence + 3
    return [story[start : start + length] for start in range(1, len(story), length)]


def names_of(story: list[int], config: InductionConfig = CONFIG) -> list[Name]:
    """Who each sentence is about."""
    return [(sentence[0], sentence[1]) for sentence in sentences_of(story, config)]


def numbered(name: int, config: InductionConfig) -> Name:
    """The tokens of a name that is given as a number."""
    first, second = divmod(name, config.second_tokens)
    return 2 + first, 2 + config.first_tokens + second


def kind_of(token: int, config: InductionConfig) -> str:
    ends = np.cumsum([1, 1, config.first_tokens, config.second_tokens, config.words])
    return ("story", "stop", "first", "second", "word")[int(np.searchsorted(ends, token, side="right"))]


def part_of(name: str, items: int = 400) -> Scored:
    return {part.name: part for part in Induction(CONFIG).test(items)}[name]


def test_a_story_is_a_mark_and_sentences_of_a_name_words_and_a_stop() -> None:
    config = replace(CONFIG, characters=3, sentences=9, words_per_sentence=2)
    form = ["story", *["first", "second", "word", "word", "stop"] * 9]
    for story in stories_of(config, 300):
        assert len(story) == config.longest
        assert [kind_of(token, config) for token in story] == form


@pytest.mark.parametrize("characters", [1, 2, 5])
def test_a_story_has_as_many_characters_as_asked_who_come_equally_often(characters: int) -> None:
    config = replace(CONFIG, characters=characters, sentences=60)
    stories = [names_of(story, config) for story in stories_of(config, 500)]
    assert {len(set(names)) for names in stories} == {characters}
    again = sum(a == b for names in stories for a, b in pairwise(names))
    if characters > 1:
        assert p_value([again, 500 * 59 - again], [1, characters - 1]) > 0.001


def test_each_word_is_followed_by_its_few_successors_across_sentences() -> None:
    followed: dict[int, set[int]] = defaultdict(set)
    tested = (written(part.examples) for part in Induction(CONFIG).test(200))
    for story in chain(stories_of(CONFIG, 3000), *tested):
        words = [token for sentence in sentences_of(story) for token in sentence[2:-1]]
        for a, b in pairwise(words):
            followed[a].add(b)
    assert max(map(len, followed.values())) == CONFIG.successors


@pytest.mark.parametrize("zipf", [0.0, 1.0, 1.5])
@pytest.mark.parametrize("characters", [1, 2])
def test_known_names_are_drawn_by_their_share_without_one_twice(zipf: float, characters: int) -> None:
    """Of one character the shares are Zipf's. Of two, a name's is half its chance to be the first of them or, with the
    others' shares grown by the first one's, the second."""
    config = replace(CONFIG, names=30, zipf=zipf, characters=characters)
    share = np.arange(1, 31) ** -zipf / sum(k**-zipf for k in range(1, 31))
    if characters == 2:
        share = np.array(
            [s + sum(share[j] * s / (1 - share[j]) for j in range(30) if j != k) for k, s in enumerate(share)]
        )
    counts = Counter(names_of(story, config)[0] for story in stories_of(config, 12_000))
    order = [numbered(int(name), config) for name in Induction(config).known_N]
    assert set(counts) == set(order)
    assert p_value([counts[name] for name in order], share) > 0.001


def test_frequent_names_are_the_same_for_every_seed() -> None:
    few = replace(CONFIG, names=12, zipf=2.0, characters=1)
    ranked = []
    for seed in (1, 2):
        counts = Counter(names_of(story, few)[0] for story in stories_of(few, 2000, seed))
        ranked.append([name for name, _ in counts.most_common(3)])
    assert ranked[0] == ranked[1]


def test_training_and_the_test_of_known_names_have_known_names_alone_and_the_other_test_none() -> None:
    config = replace(CONFIG, zipf=0.0)  # so that all names turn up
    known = {name for seed in range(4) for story in stories_of(config, 3000, seed) for name in names_of(story)}
    assert len(known) == config.names
    fresh, tested = (
        {name for story in written(part.examples) for name in names_of(story)} for part in Induction(config).test(400)
    )
    assert tested <= known
    assert not fresh & known
    assert len(fresh) > 700, "of 800 characters: hardly any twice"
    for place in (0, 1):
        assert {name[place] for name in fresh} <= {name[place] for name in known}, "of tokens that training has"


def test_fresh_names_of_a_story_differ_in_their_first_token() -> None:
    config = InductionConfig(
        names=8, first_tokens=4, second_tokens=5, characters=4, words=5, successors=2, sentences=40
    )
    for story in written(Induction(config).test(200)[0].examples):
        names = set(names_of(story, config))
        assert len(names) == len({first for first, _ in names}) == 4


def test_the_test_is_the_same_at_every_call() -> None:
    one, other = (Induction(CONFIG).test(20) for _ in range(2))
    for a, b in zip(one, other, strict=True):
        assert (a.name, written(a.examples), a.whole) == (b.name, written(b.examples), b.whole)
        assert np.array_equal(a.examples.counted_EL, b.examples.counted_EL)


@pytest.mark.parametrize("name", ["accuracy", "accuracy_known"])
def test_what_counts_is_the_second_token_of_every_occurrence_but_a_name_s_first(name: str) -> None:
    part = part_of(name)
    assert not part.whole
    for story, counted in zip(written(part.examples), part.examples.counted_EL, strict=True):
        seen: set[Name] = set()
        expected = []
        for number, who in enumerate(names_of(story)):
            if who in seen:
                expected.append(1 + number * SENTENCE + 1)
            seen.add(who)
        assert counted.nonzero()[0].tolist() == expected
        assert [kind_of(story[place], CONFIG) for place in expected] == ["second"] * len(expected)


def test_in_training_every_token_counts() -> None:
    assert Induction(CONFIG).examples(1, 0, 2000).counted_EL.all()


Player = Callable[[list[int]], int]
"""The token it expects after these."""


def share_right(part: Scored, player: Player) -> float:
    right = [
        player(story[:place]) == story[place]
        for story, counted in zip(written(part.examples), part.examples.counted_EL, strict=True)
        for place in counted.nonzero()[0]
    ]
    return sum(right) / len(right)


def copier(tokens: list[int]) -> int:
    """What stood behind the last token when it stood there before."""
    last = max(place for place, token in enumerate(tokens[:-1]) if token == tokens[-1])
    return tokens[last + 1]


@pytest.fixture(scope="module")
def trained() -> list[Name]:
    """Names as often as training has them."""
    return [name for story in stories_of(CONFIG, 4000) for name in names_of(story)]


def test_who_copies_gets_all_of_the_fresh_names_right() -> None:
    assert share_right(part_of("accuracy"), copier) == 1


def test_who_says_the_most_frequent_second_token_is_near_chance_on_fresh_names(trained: list[Name]) -> None:
    ((most, _),) = Counter(second for _, second in trained).most_common(1)
    assert share_right(part_of("accuracy"), lambda _: most) < 3 / CONFIG.second_tokens


def test_who_remembers_training_s_pairs_is_good_on_known_names_and_not_on_fresh_ones(trained: list[Name]) -> None:
    followed: dict[int, Counter[int]] = defaultdict(Counter)
    for first, second in trained:
        followed[first][second] += 1
    best = {first: seconds.most_common(1)[0][0] for first, seconds in followed.items()}
    assert share_right(part_of("accuracy_known"), lambda tokens: best[tokens[-1]]) > 0.6
    assert share_right(part_of("accuracy"), lambda tokens: best[tokens[-1]]) == 0, "it knows none of the pairs"


def test_text_names_every_token() -> None:
    task = Induction(CONFIG)
    words = task.shown().split()
    (story,) = stories_of(CONFIG, 1)
    told = task.text(np.array(story)).split()
    starts = {
        "story": 2,
        "first": 2,
        "second": 2 + CONFIG.first_tokens,
        "word": 2 + CONFIG.first_tokens + CONFIG.second_tokens,
    }
    for token, word in zip(story, told, strict=True):
        kind = kind_of(token, CONFIG)
        signs = {"story": "<story>", "stop": "."}
        letters = {"first": "A", "second": "b", "word": "w"}
        assert word == (signs[kind] if kind in signs else f"{letters[kind]}{token - starts[kind]}")
    assert len(words) == CONFIG.longest

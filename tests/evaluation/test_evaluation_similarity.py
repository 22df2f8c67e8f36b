"""Edit distance against published values and the textbook recurrence."""

import random

import pytest

from components.evaluation.similarity import edit_distance, edit_similarity


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [
        ("kitten", "sitting", 3),
        ("saturday", "sunday", 3),
        ("intention", "execution", 5),  # Jurafsky & Martin, chapter 2, with substitutions at cost 1
        ("flaw", "lawn", 2),
        ("gumbo", "gambol", 2),
        ("", "abc", 3),
        ("abc", "", 3),
        ("", "", 0),
        ("ab" * 100, "ba" * 100, 2),
    ],
)
def test_known_distances(a: str, b: str, distance: int) -> None:
    assert edit_distance(a, b) == distance
    assert edit_distance(b, a) == distance


def _by_the_recurrence(a: str, b: str) -> int:
    above = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
        above = row
    return above[-1]


def test_equals_the_recurrence_on_random_strings() -> None:
    draw = random.Random(0)
    for _ in range(500):
        a, b = ("".join(draw.choices("ab €", k=draw.randrange(0, 90))) for _ in range(2))
        assert edit_distance(a, b) == _by_the_recurrence(a, b)


def test_similarity_is_relative_to_the_longer_string() -> None:
    assert edit_similarity("kitten", "sitting") == pytest.approx(1 - 3 / 7)
    assert edit_similarity("", "") == 1.0
    assert edit_similarity("abc", "") == 0.0

"""Which lines are cut and where; what generation is asked for; scores of generators whose skill is known."""

import random
from collections.abc import Sequence
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from components.evaluation import bodies, completion
from components.tokenizer.codec import BytesCodec

SOURCE = '''"""A docstring over
several lines = with code in it
"""
import os.path as osp

# a comment that is long enough
def area(width, height):
    """One line docstring of some length."""
    text = """
    never_cut = inside(a, string)
    """
    result = width * height + len(text)
    return  result
x = 1
'''


def test_only_lines_of_code_are_completed() -> None:
    lines = SOURCE.split("\n")
    chosen = [lines[number] for number in completion.lines_worth_completing(SOURCE)]
    assert chosen == [
        "import os.path as osp",
        "def area(width, height):",
        "    result = width * height + len(text)",
        "    return  result",
    ]


def test_text_that_is_not_python_is_judged_by_how_its_lines_begin() -> None:
    text = "int main() {\n  // not this one, please\n  char *s = 'it''s \"';\n"
    assert completion.lines_worth_completing(text) == [0, 2]


def test_cuts_leave_some_line_on_both_sides_and_no_word_in_two() -> None:
    line = "    result = width * height + len(text)  "
    for cut in completion.cuts(line):
        before, after = line[:cut], line[cut:]
        assert len(before.strip()) >= 4
        assert len(after.strip()) >= 4
        assert not before[-1].isspace()
        assert not (before[-1].isalnum() and after[0].isalnum())
    assert {line[:cut] for cut in completion.cuts(line)} >= {"    result", "    result = width"}


def test_the_choice_depends_on_seed_and_documents_not_on_their_order() -> None:
    documents = [(f"d{i}.py", SOURCE.replace("area", f"area_{i}")) for i in range(40)]
    chosen = completion.choose_lines(documents, 10, seed=1)
    shuffled = random.Random(0).sample(documents, len(documents))
    assert completion.choose_lines(shuffled, 10, seed=1) == chosen
    assert completion.choose_lines(documents, 10, seed=2) != chosen
    assert len({item.id.split(":")[0] for item in chosen}) == 10


def test_items_are_the_document_cut_in_two() -> None:
    for item in completion.choose_lines([("a.py", SOURCE)], 4, seed=0):
        assert SOURCE.startswith(item.context)
        assert SOURCE[len(item.context) :].split("\n")[0].strip() == item.rest


def test_few_documents_give_several_lines_each_and_no_line_twice() -> None:
    chosen = completion.choose_lines([("a.py", SOURCE), ("b.py", SOURCE)], 100, seed=0)
    assert len(chosen) == 8
    assert len({item.id for item in chosen}) == 8


def test_windows_line_ends_are_lines_too() -> None:
    dos = completion.choose_lines([("a.py", SOURCE.replace("\n", "\r\n"))], 4, seed=0)
    assert dos == completion.choose_lines([("a.py", SOURCE)], 4, seed=0)


def _lines(generate: completion.Generate, items: list[completion.LineItem]) -> list[completion.Completed]:
    return list(completion.complete_lines(items, BytesCodec(), generate, 64, 40, batch_size=3))


def test_a_generator_that_knows_the_text_scores_one_and_a_mute_one_zero() -> None:
    items = completion.choose_lines([(f"{i}.py", SOURCE) for i in range(5)], 10, seed=0)

    def oracle(prompts: Sequence[Sequence[int]], limit: int, stops: frozenset[int]) -> list[list[int]]:
        assert stops == {10, BytesCodec().eos_id}
        made = []
        for prompt in prompts:
            before = BytesCodec().decode(prompt)
            after = SOURCE[SOURCE.index(before) + len(before) :]
            made.append(BytesCodec().encode(after)[:limit])  # runs on past the newline, as an engine may
        return made

    perfect = completion.mean_score(_lines(oracle, items))
    assert perfect is not None
    assert (perfect.exact_match, perfect.edit_similarity, perfect.items) == (1.0, 1.0, 10)
    mute = completion.mean_score(_lines(lambda prompts, limit, stops: [[] for _ in prompts], items))
    assert mute is not None
    assert (mute.exact_match, mute.edit_similarity) == (0.0, 0.0)
    assert completion.mean_score([]) is None


def test_every_output_goes_to_its_own_item() -> None:
    items = completion.choose_lines([(f"{i}.py", SOURCE) for i in range(7)], 7, seed=3)
    done = _lines(lambda prompts, limit, stops: [list(p[-5:]) for p in prompts], items)
    by_id = {item.id: item for item in items}
    assert sorted(by_id) == sorted(item.id for item in done)
    for item in done:
        assert item.generated == by_id[item.id].context[-5:].split("\n")[0].strip()
        assert item.truth == by_id[item.id].rest


def test_the_start_mark_stands_only_before_a_document_that_is_seen_whole() -> None:
    assert completion.context_of(BytesCodec(), "abc", 10) == [256, 97, 98, 99]
    assert completion.context_of(BytesCodec(), "abc", 2) == [98, 99]
    assert completion.context_of(BytesCodec(), "x" * 5000, 10) == [120] * 10


def _pairs(folder: Path, rows: list[tuple[str, str, str]]) -> Path:
    names = ("id", "prompt", "completion")
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "test.parquet")
    return folder


def test_pairs_that_do_not_fit_are_left_out_and_the_order_is_by_seed(tmp_path: Path) -> None:
    rows = [(f"f{i}", f"def f{i}():\n", f"    return {i}\n") for i in range(9)]
    folder = _pairs(tmp_path, [*rows, ("long", "def g():\n", "    x\n" * 99), ("short", "d", "x")])
    found = bodies.read_pairs(folder, "test", BytesCodec(), context_length=64, heads=4, seed=1)
    assert {pair.id for pair in found} == {row[0] for row in rows}
    assert found[0].prompt[0] == BytesCodec().bos_id
    assert found[0].completion[-1] == BytesCodec().eos_id
    again = bodies.read_pairs(folder, "test", BytesCodec(), context_length=64, heads=4, seed=2)
    assert [pair.id for pair in again] != [pair.id for pair in found]
    with pytest.raises(ValueError, match=r"none of the 11 pairs .* fits into 5 tokens"):
        bodies.read_pairs(folder, "test", BytesCodec(), context_length=5, heads=4, seed=1)


def test_bodies_are_compared_up_to_the_limit() -> None:
    pair = bodies.Pair("f", [256, 100], [*b"    return 12345", 257])
    generate: completion.Generate = lambda prompts, limit, stops: [list(b"    return 12")]  # noqa: E731
    (full,) = bodies.complete_bodies([pair], BytesCodec(), generate, max_new_tokens=64, batch_size=1)
    assert full.similarity == pytest.approx(1 - 3 / 12)
    (cut,) = bodies.complete_bodies([pair], BytesCodec(), generate, max_new_tokens=13, batch_size=1)
    assert cut.similarity == 1.0


def test_bodies_are_taken_until_they_hold_enough_tokens() -> None:
    pairs = [bodies.Pair(str(i), [1], [2] * 10) for i in range(5)]
    assert len(bodies.up_to(pairs, 25)) == 3
    assert len(bodies.up_to(pairs, 1000)) == 5

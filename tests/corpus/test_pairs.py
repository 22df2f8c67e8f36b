import ast
import textwrap
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from components.artifacts import SPLITS, Corpus
from components.corpus.config import PairsConfig
from components.corpus.pairs import Drawn, pairs_of, write_pairs
from components.corpus.reader import fetch, places

SOURCE = '''\
import os


@decorated
def first(a,
          b=1) -> int:
    """Adds.

    Twice.
    """
    # a comment belongs to the body
    c = a + b
    return c


class Holder:
    async def second(self):
        'Short.'  # trailing
        def inner():
            """Not taken: it lies in another function."""
            return 1
        return inner


if os.name:
    def third():
        """Taken too."""
        return 3

def no_docstring():
    return 1

def only_docstring():
    """Nothing else."""

def one_line(): """Here."""; return 1
'''


def test_signature_and_docstring_then_the_rest_of_the_body() -> None:
    pairs = list(pairs_of("m.py", SOURCE))
    assert [pair.id for pair in pairs] == ["m.py:5", "m.py:17", "m.py:26"]
    first, second, third = pairs
    assert first.prompt.startswith("def first(a,")
    assert first.prompt.endswith('Twice.\n    """\n')
    assert first.completion == "    # a comment belongs to the body\n    c = a + b\n    return c\n"
    assert second.prompt == "    async def second(self):\n        'Short.'  # trailing\n"
    assert second.completion.endswith("        return inner\n")
    assert third.completion == "        return 3\n"


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("before", ["", "\x0c\n", "x = 'é\u2028\x0b日本'\n", "\ufeff"])
def test_a_pair_is_a_piece_of_the_file_whatever_its_line_ends(ending: str, before: str) -> None:
    source = (before + SOURCE).replace("\n", ending)
    pairs = list(pairs_of("m.py", source))
    assert len(pairs) == 3
    for pair in pairs:
        assert pair.prompt + pair.completion in source
        code = textwrap.dedent((pair.prompt + pair.completion).replace("\r\n", "\n").replace("\r", "\n"))
        (function,) = ast.parse(code).body
        assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        assert ast.get_docstring(function)


def test_no_line_end_at_the_end_of_the_file() -> None:
    (pair,) = pairs_of("m.py", 'def f():\n    """Doc."""\n    return 1')
    assert pair.completion == "    return 1"


def test_what_does_not_parse_yields_nothing() -> None:
    for source in ("print 'old'\n", "(" * 10_000, "def f(:\n", "\0"):
        assert list(pairs_of("m.py", source)) == []


def _write(config: PairsConfig, corpus: Path, directory: Path) -> Drawn:
    directory.mkdir()
    return write_pairs(config, corpus, directory, lambda done, total, text: None)


def test_pairs_come_from_their_own_split_within_the_limits_and_once(small_corpus: Corpus, tmp_path: Path) -> None:
    config = PairsConfig(max_prompt_characters=400, max_completion_characters=500, max_pairs=100)
    result = _write(config, small_corpus.path, tmp_path / "out")
    seen = set()
    for split in SPLITS:
        texts = dict(fetch(small_corpus.path, places(small_corpus.path, split)))
        rows = pq.read_table(tmp_path / f"out/{split}.parquet").to_pylist()
        assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
        assert len(rows) == result.pairs[split] > 0
        for row in rows:
            whole = row["prompt"] + row["completion"]
            assert whole in texts[row["id"].rsplit(":", 1)[0]]
            assert len(row["prompt"]) <= 400
            assert 20 <= len(row["completion"]) <= 500
            seen.add(whole)
    assert len(seen) == sum(result.pairs.values())
    assert result.pairs["train"] == 100
    assert _write(config, small_corpus.path, tmp_path / "again").digest == result.digest


def test_limits_that_leave_nothing_are_an_error(small_corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the train split yields no pairs"):
        _write(PairsConfig(max_prompt_characters=3), small_corpus.path, tmp_path / "out")

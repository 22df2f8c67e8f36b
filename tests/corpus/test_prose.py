"""Sentences out of documentation."""

import argparse
import asyncio.events
import inspect
import re
import textwrap
from pathlib import Path
from types import ModuleType

import pyarrow.parquet as pq
import pytest

from components.artifacts import SPLITS
from components.corpus.blocks import in_process
from components.corpus.collect import collect_corpus
from components.corpus.config import CorpusConfig
from components.corpus.pieces import Piece
from components.corpus.prose import is_documentation, prose_of, reads_as_sentences
from components.corpus.sources import list_pieces

FIRST = "This module reads the files of a folder and gives back what is in them, one after the other."
SECOND = "If a file cannot be opened, it is left out and the reason is written to the log of the run."
SOURCE = f'''\
"""{FIRST}

Parameters
----------
path : str
    The folder that is to be read by the function when it is called.

>>> read("folder")  # the example of the module, as it is in the manual
"""
import os


class Reader:
    """{SECOND}"""

    def again(self):
        """{FIRST}"""
        def inner():
            """{SECOND.replace("file", "link")}"""

if os.name:
    def other():
        "No sentence here"
'''


def test_the_sentences_of_docstrings_once_each_and_in_order() -> None:
    expected = f"{FIRST}\n\n{SECOND}\n\n{SECOND.replace('file', 'link')}\n"
    assert prose_of("m.py", SOURCE) == expected
    assert prose_of("m.py", SOURCE.replace("\n", "\r\n")) == expected


def test_what_does_not_parse_has_no_prose() -> None:
    for source in ("print 'old'\n", "(" * 10_000, "\0", ""):
        assert prose_of("m.py", source) == ""


@pytest.mark.parametrize("module", [argparse, asyncio.events, inspect])
def test_every_paragraph_stands_in_a_docstring_of_the_module(module: ModuleType) -> None:
    """Against the docstrings that Python itself shows."""
    shown = [inspect.getdoc(module) or ""]
    for owner in [module, *(c for c in vars(module).values() if inspect.isclass(c))]:
        shown += [inspect.getdoc(member) or "" for _, member in inspect.getmembers(owner)]
    together = re.sub(r"\s+", " ", "\n".join(shown))
    paragraphs = prose_of("m.py", Path(module.__file__ or "").read_text()).strip("\n").split("\n\n")
    assert len(paragraphs) >= 10
    missing = [p for p in paragraphs if " ".join(p.split()) not in together]
    assert len(missing) <= len(paragraphs) // 10  # of functions within functions


@pytest.mark.parametrize(
    "paragraph",
    [
        "short and in small letters",
        "A Title Without A Sentence In It At All For Nobody",
        "Args:\n    path (str): the folder that is to be read when the function is called by a user.",
        "Parameters\n----------\nThe folder that is to be read when the function is called by a user.",
        "path (str): The folder that is to be read when the function is called by a user of it.",
        ":param path: The folder that is to be read when the function is called by a user of it.",
        ">>> the_folder = read(path)  # this is to be read when the function is called by a user",
        "    Indented text as it is in a list of the things that are to be read by the function.",
        "Copyright is held by the authors of the module and it is to be named in all of the copies.",
        "Alpha, beta, gamma, delta, epsilon, zeta, eta, theta, iota, kappa, lambda, mu, nu, xi.",
        "Das ist ein deutscher Satz, der hier nicht gelesen werden soll, weil er nicht englisch ist.",
        "See [1], [2], [3], (4), (5): x = 3 * y + 7 / 2 for the a[0:12] or b[3:4] and -1 == 0.",
    ],
)
def test_what_is_no_connected_english_is_passed_over(paragraph: str) -> None:
    assert not reads_as_sentences(paragraph)
    assert reads_as_sentences(SECOND)


def test_a_description_is_read_below_its_header_and_markdown_as_it_is() -> None:
    header = "Metadata-Version: 2.4\nName: x\nSummary: The name of the module and of what is in it for all.\n"
    body = f"# Title\n\n{FIRST}\n\n```\n{SECOND}\n```\n\n- {SECOND}\n"
    assert prose_of("x-1.0.dist-info/METADATA", f"{header}\n{body}") == f"{FIRST}\n"
    assert prose_of("README.md", body) == f"{FIRST}\n"


def test_which_files_are_documentation() -> None:
    for name in ("a/README.md", "docs/intro.RST", "x-1.0.dist-info/METADATA", "a/b.py", "notes.txt", "a/README.md.gz"):
        assert is_documentation(name)
    for name in ("LICENSE.txt", "x-1.0.dist-info/licenses/a.md", "a/data.csv", "third_party/a.md", "a.pyi", "Makefile"):
        assert not is_documentation(name)


def test_a_corpus_of_the_user_s_documentation(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for i in range(25):
        (folder / f"p{i}").mkdir(parents=True)
        text = f"The part {i} of the manual is about what to do with a folder in which there are {i} files.\n\n"
        (folder / f"p{i}/README.md").write_text(f"# Part {i}\n\n" + text + text.replace("manual", "book") + SECOND)
    (folder / "p0/data.csv").write_text("a,b\n" * 100)
    (folder / "p0/code.py").write_text("x = 1\n" * 100)
    (tmp_path / "out").mkdir()
    result = collect_corpus(
        CorpusConfig(source="prose", path=str(folder)), tmp_path / "out", in_process, lambda *_: None
    )
    assert result.dropped == {"no prose": 1}
    assert sum(result.documents.values()) == 25
    for split in SPLITS:
        for part in (tmp_path / "out" / split).glob("*.parquet"):
            for row in pq.read_table(part).to_pylist():
                assert textwrap.dedent(row["text"]).startswith("The part ")


def test_the_documentation_of_a_package_goes_with_its_code() -> None:
    pieces = [p for p in list_pieces(CorpusConfig(source="prose"), "", in_process) if isinstance(p, Piece)]
    groups = {piece.id: piece.group for piece in pieces}
    (description,) = [id for id in groups if re.search(r"/numpy-[^/]*/METADATA$", id)]
    assert groups[description] == groups["site-packages/numpy/ctypeslib/_ctypeslib.py"] == "numpy"

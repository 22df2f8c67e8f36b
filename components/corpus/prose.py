"""Connected English out of documentation: the docstrings of a module, a README, the description of a package.

Documentation is prose between examples, lists of parameters and markup. Paragraph by paragraph, what reads as sentences
is kept as it stands there; the rest is passed over.
"""

import ast
import re
import warnings
from collections.abc import Iterator
from pathlib import PurePosixPath

DOCUMENTS = (".md", ".markdown", ".rst", ".txt", ".adoc")
"""Endings of files that are documentation as a whole."""
DESCRIPTION = "METADATA"
"""The file of an installed package that has its description, below a header as mails have it."""
LEGAL = re.compile(r"(?i)(licen[sc]e|copying|copyright|notice|third.?party|authors|contributors|vendor)")
"""Names of files and folders that hold legal texts and names: the same ones in every package."""

MIN_WORDS = 8
MIN_COMMON_SHARE = 0.2
MIN_LETTER_SHARE = 0.85
COMMON = frozenset(
    [
        "the", "of", "to", "and", "a", "in", "is", "for", "be", "that", "this", "it", "as", "with", "by", "are", "or",
        "on", "if", "from", "an", "not", "which", "can", "will", "you", "at", "when", "has",
    ]
)  # fmt: skip
"""A fifth of the words of connected English are among these; of lists, names and code next to none."""

_HEADED = re.compile(
    r"(Args|Arguments|Parameters|Params|Returns?|Raises|Yields|Attributes|Examples?|See Also|References|Keyword"
    r" Arguments|Kwargs|Inputs?|Outputs?|Shape|Usage|Keys|Fields)\b[^.]{0,20}(:|\n\s*[-=~]{3})"
)
_MARKUP = re.compile(r"^\s*(>>>|\.\.\.|\$ |[:@]\w|\||```|\.\. |<)", re.MULTILINE)
_FIELD = re.compile(r"^\s*[`*]*\w+[`*]*( \([^)]*\))? ?:(\s|$)", re.MULTILINE)
_BOILERPLATE = re.compile(r"(?i)copyright|licensed under|without warranty|all rights reserved|auto-?generated")


def is_documentation(name: str) -> bool:
    """Whether a file may hold prose, by its name."""
    path = PurePosixPath(re.sub(r"\.(gz|zst)$", "", name))
    if any(LEGAL.search(part) for part in path.parts):
        return False
    return path.name == DESCRIPTION or path.suffix == ".py" or path.name.lower().endswith(DOCUMENTS)


def prose_of(name: str, text: str) -> str:
    """The paragraphs of a file that read as sentences, each once, a blank line between them; empty for none."""
    if name.endswith(".py"):
        pieces: Iterator[str] = _docstrings(text)
    elif PurePosixPath(name).name == DESCRIPTION:
        pieces = iter([text.partition("\n\n")[2]])
    else:
        pieces = iter([text])
    kept: dict[str, str] = {}
    for piece in pieces:
        for paragraph in re.split(r"\n(?:[^\S\n]*\n)+", piece.replace("\r\n", "\n").strip("\n")):
            if reads_as_sentences(paragraph):
                kept.setdefault(" ".join(paragraph.split()), paragraph)
    return "\n\n".join(kept.values()) + "\n" if kept else ""


def reads_as_sentences(paragraph: str) -> bool:
    """Whether a paragraph is connected English."""
    if not paragraph[:1].isupper() or not re.search(r"[.!?:]", paragraph) or _HEADED.match(paragraph):
        return False  # what is indented belongs to a list or an example
    if any(pattern.search(paragraph) for pattern in (_FIELD, _MARKUP, _BOILERPLATE)):
        return False
    words = re.findall(r"[a-z']+", paragraph.lower())
    compact = "".join(paragraph.split())
    return (
        len(words) >= MIN_WORDS
        and sum(word in COMMON for word in words) >= MIN_COMMON_SHARE * len(words)
        and sum(map(str.isalpha, compact)) >= MIN_LETTER_SHARE * len(compact)
    )


def _docstrings(source: str) -> Iterator[str]:
    """The docstrings of a module, its classes and functions, in their order; none of what does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a SyntaxWarning about somebody's escape sequence
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""
        for block in ("orelse", "finalbody", "handlers", "body"):
            pending.extend(
                child for child in reversed(getattr(node, block, [])) if isinstance(child, ast.stmt | ast.excepthandler)
            )

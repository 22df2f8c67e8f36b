"""Prompt-completion pairs from functions: signature and docstring are the prompt, the rest of the body follows."""

import ast
import hashlib
import json
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from components.artifacts import SPLITS
from components.corpus.blocks import Progress, throttled
from components.corpus.config import PairsConfig
from components.corpus.reader import fetch, places
from components.corpus.split import hash_fraction

DOCUMENTS_AT_A_TIME = 200


@dataclass(frozen=True)
class Pair:
    """A function: what it promises, and what it does. Together they are a piece of the file."""

    id: str
    """Document and line, `site-packages/six.py:61`."""
    prompt: str
    completion: str


@dataclass(frozen=True)
class Drawn:
    """What `write_pairs` wrote."""

    digest: str
    pairs: dict[str, int]


def write_pairs(config: PairsConfig, corpus: Path, directory: Path, progress: Progress) -> Drawn:
    """Draw pairs from every split of a corpus and write them (layout: artifacts.Pairs).

    A text that was drawn already is not drawn again, nor in a later split: no held-out pair is among the training
    pairs. ValueError when a split of the corpus yields none.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    report = throttled(progress)
    seen: set[bytes] = set()
    digest = hashlib.sha256()
    counts = {}
    for split in SPLITS:
        limit = config.max_pairs if split == "train" else config.max_pairs_held_out
        pairs = sorted(_draw(config, corpus, split, limit, seen, report), key=lambda pair: pair.id)
        if not pairs:
            raise ValueError(
                f"the {split} split yields no pairs: it has no Python function with a docstring, {config.limits()}; "
                "widen these limits, give a larger corpus of Python code, or leave fine-tuning out with finetunes=[]"
            )
        for pair in pairs:
            digest.update(json.dumps([split, pair.id, pair.prompt, pair.completion]).encode() + b"\n")
        columns = {
            "id": [pair.id for pair in pairs],
            "prompt": [pair.prompt for pair in pairs],
            "completion": [pair.completion for pair in pairs],
        }
        pq.write_table(pa.table(columns), directory / f"{split}.parquet", compression="zstd")
        counts[split] = len(pairs)
    return Drawn(digest.hexdigest(), counts)


def _draw(
    config: PairsConfig, corpus: Path, split: str, limit: int | None, seen: set[bytes], report: Progress
) -> list[Pair]:
    """Pairs of one split, from documents in hash order until there are enough."""
    order = sorted(places(corpus, split), key=lambda p: (hash_fraction(config.seed, "pairs", p.id), p.id))
    drawn: list[Pair] = []
    for start in range(0, len(order), DOCUMENTS_AT_A_TIME):
        report(start, len(order) + 1, f"{split}: {len(drawn)} pairs")
        for id, text in fetch(corpus, order[start : start + DOCUMENTS_AT_A_TIME]):
            for pair in pairs_of(id, text):
                if limit is not None and len(drawn) >= limit:
                    return drawn
                if not config.fits(pair.prompt, pair.completion):
                    continue
                key = hashlib.sha256((pair.prompt + "\0" + pair.completion).encode()).digest()
                if key not in seen:
                    seen.add(key)
                    drawn.append(pair)
    return drawn


def pairs_of(id: str, text: str) -> Iterator[Pair]:
    """The functions and methods of a Python source that have a docstring and a body below it.

    prompt + completion is a piece of the text as it stands there: whole lines from `def` (decorators left out) to
    the last of the function. What does not parse yields nothing.
    """
    source = text.encode()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a SyntaxWarning about somebody's escape sequence
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    # the parser's lines: str.splitlines would also break at form feeds and the like
    starts = [0, *(match.end() for match in re.finditer(rb"\r\n|\r|\n", source)), len(source)]
    for function in _functions(tree.body):
        first, *rest = function.body
        if ast.get_docstring(function, clean=False) is None or not rest:
            continue
        assert first.end_lineno is not None
        assert function.end_lineno is not None
        if rest[0].lineno <= first.end_lineno:
            continue
        begin, middle = starts[function.lineno - 1], starts[first.end_lineno]
        end = starts[min(function.end_lineno, len(starts) - 1)]
        yield Pair(f"{id}:{function.lineno}", source[begin:middle].decode(), source[middle:end].decode())


def _functions(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions that lie in no other function, in order, those of classes and of `if` and `try` blocks among them."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            yield statement
            continue
        for field in ("body", "handlers", "orelse", "finalbody"):
            inner = getattr(statement, field, [])
            yield from _functions([child for child in inner if isinstance(child, ast.stmt)])

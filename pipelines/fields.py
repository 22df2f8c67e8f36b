"""Every field of a recipe with its default and its sentence, as Markdown: `python -m pipelines.fields`.

`conf/README.md` holds this table; a test keeps the two equal.
"""

import ast
import dataclasses
import inspect
import json
import textwrap
import typing
from collections.abc import Iterator
from typing import Any

from pipelines.experiment import Experiment, Schedule
from pipelines.recipe import DERIVED, Options, Recipe


def sentences(kind: type) -> dict[str, str]:
    """The docstring under each field of a dataclass, inherited fields included."""
    found: dict[str, str] = {}
    for parent in reversed(kind.__mro__):
        if dataclasses.is_dataclass(parent):
            found |= _own_sentences(parent)
    return found


def _own_sentences(kind: type) -> dict[str, str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    body = tree.body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
        ):
            found[field.target.id] = " ".join(str(below.value.value).split())
    return found


def rows(kind: type, default: Any, where: str = "") -> Iterator[tuple[str, str, str]]:
    """(dotted path, default, sentence) of every field that a recipe may give."""
    words = sentences(kind)
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        path = f"{where}.{field.name}" if where else field.name
        value = getattr(default, field.name)
        if path in DERIVED or (kind is Experiment and path == "cluster"):  # which is as in a recipe
            continue
        if dataclasses.is_dataclass(hints[field.name]):
            yield from rows(hints[field.name], value, path)
        else:
            yield path, json.dumps(value), words.get(field.name, "")


def table() -> str:
    """The whole table."""
    lines = []
    kinds = {
        "Options of an invocation": Options,
        "Fields of a recipe": Recipe,
        "Fields of an experiment (`pipelines/synthetic.py`), beside `cluster`": Experiment,
        "Fields of a part of `schedules`": Schedule,
    }
    for title, kind in kinds.items():
        lines += [f"### {title}", "", "| field | default | |", "| --- | --- | --- |"]
        for path, default, sentence in rows(kind, kind()):
            lines.append(f"| `{path}` | `{default}` | {sentence.replace('|', chr(92) + '|')} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())

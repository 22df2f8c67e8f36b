"""Source of a stage: digests of the code that its result can depend on, found by reading it, never by running it.

From the stage's function on, every definition that is named counts, and what that names in turn, over the modules of
the same project; statements that run when a module is imported count too. Comments, docstrings and formatting do not,
nor does this package: how a stage is run changes no result. A file that stands beside a module and is named in it by
its own name counts whole.
"""

import ast
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

DIGEST_LENGTH = 12
OWN_PACKAGE = __name__.rpartition(".")[0]

Source = Mapping[str, str]
"""Digest by file, relative to the project."""


def source_of(function: Callable[..., Any]) -> Source:
    """Digests of the code behind a stage's function, by file."""
    module = function.__module__
    file = Path(function.__code__.co_filename)
    root = file.parents[module.count(".")] if module != "__main__" else file.parent
    return _source(str(root), module if module != "__main__" else file.stem, function.__name__)


def changed_files(old: Source | None, new: Source) -> list[str]:
    """Files whose part in a result is not what it was; one in which nothing more or nothing yet counts among them."""
    before = old or {}
    return sorted(file for file in {*before, *new} if before.get(file) != new.get(file))


@cache
def _source(root: str, module: str, name: str) -> Source:
    parts: dict[str, dict[str, bytes]] = {}
    seen: set[tuple[str, str | None]] = set()
    pending: list[tuple[str, str | None]] = [(module, name)]
    while pending:
        place = pending.pop()
        if place in seen:
            continue
        seen.add(place)
        code = _read(root, place[0]) if place[0] else None
        if code is None:
            continue
        taken = parts.setdefault(code.file, {})
        if "" not in taken:  # what runs when the module is imported
            taken[""] = code.always
            pending += code.always_uses
            pending += [(place[0].rpartition(".")[0], "")]  # and its packages
            taken |= code.beside
        if place[1] is None:
            pending += [(place[0], defined) for defined in code.definitions]
        elif place[1] in code.definitions:
            taken[place[1]], uses = code.definitions[place[1]]
            pending += uses
        elif place[1] in code.imports:
            pending += code.imports[place[1]]
    return {file: _digest(taken) for file, taken in sorted(parts.items())}


def _digest(taken: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name in sorted(taken):
        digest.update(f"{name}\0{len(taken[name])}\0".encode() + taken[name])
    return digest.hexdigest()[:DIGEST_LENGTH]


@dataclass
class _Code:
    """A module, cut into its top-level definitions. A use is (module, name), name None for all of it."""

    file: str
    definitions: dict[str, tuple[bytes, list[tuple[str, str | None]]]] = field(default_factory=dict)
    imports: dict[str, list[tuple[str, str | None]]] = field(default_factory=dict)
    """What a name that is imported at the top leads to."""
    always: bytes = b""
    always_uses: list[tuple[str, str | None]] = field(default_factory=list)
    beside: dict[str, bytes] = field(default_factory=dict)


@cache
def _read(root: str, module: str) -> _Code | None:
    """A module of the project, or None for one of somebody else's or of this package."""
    if module == OWN_PACKAGE or module.startswith(OWN_PACKAGE + "."):
        return None
    stem = Path(root, *module.split("."))
    path = next((p for p in (stem.with_suffix(".py"), stem / "__init__.py") if p.is_file()), None)
    if path is None:
        return None
    text = path.read_bytes()
    code = _Code(str(path.relative_to(root)))
    tree = _without_words(ast.parse(text))
    always: list[ast.stmt] = []
    named: list[tuple[list[str], ast.stmt]] = []
    for statement in tree.body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            for name, uses in _imports(root, statement):
                code.imports.setdefault(name, []).extend(uses)
        elif isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if not isinstance(statement, ast.ClassDef):
                statement.decorator_list = [d for d in statement.decorator_list if not _is_stage(d)]
            named.append(([statement.name], statement))
        elif targets := _assigned(statement):
            named.append((targets, statement))
        elif not _for_types_alone(statement):
            always.append(statement)
    own = {name for names, _ in named for name in names}
    for names, statement in named:
        for name in names:
            before, uses = code.definitions.get(name, (b"", []))
            more = _uses(root, module, statement, own, code.imports)
            code.definitions[name] = (before + _serialized(statement), [*uses, *more])
    code.always = b"".join(map(_serialized, always))
    code.always_uses = [use for s in always for use in _uses(root, module, s, own, code.imports)]
    for word in {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}:
        if re.fullmatch(r"\w[\w.-]{0,100}\.\w+", word) and (near := path.with_name(word)).is_file():
            code.beside[f"file {word}"] = near.read_bytes()
    return code


def _is_stage(decorator: ast.expr) -> bool:
    """`@stage(version=…, resources=…)`: what it says is part of the identity, or of how a stage is run."""
    return isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Name) and decorator.func.id == "stage"


def _assigned(statement: ast.stmt) -> list[str]:
    """Names that a plain assignment defines; none for anything else, which then counts as run on import."""
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    return [t.id for t in targets if isinstance(t, ast.Name)] if all(isinstance(t, ast.Name) for t in targets) else []


def _for_types_alone(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and ast.unparse(statement.test).endswith("TYPE_CHECKING")


def _uses(
    root: str, module: str, tree: ast.AST, own: set[str], imports: Mapping[str, list[tuple[str, str | None]]]
) -> list[tuple[str, str | None]]:
    """What a piece of code names: definitions of its module, what is imported at the top or in the piece itself."""
    uses: list[tuple[str, str | None]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            if node.id in own:
                uses.append((module, node.id))
            uses += imports.get(node.id, [])
        elif isinstance(node, ast.Import | ast.ImportFrom):
            uses += [use for _, found in _imports(root, node) for use in found]
    return uses


def _imports(root: str, statement: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """(local name, what it leads to) of an import statement; modules outside the project are sorted out when read."""
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            yield alias.asname or alias.name.partition(".")[0], [(alias.name, None)]
    elif statement.module and not statement.level:
        for alias in statement.names:
            below = Path(root, *statement.module.split("."), alias.name)
            if below.with_suffix(".py").is_file() or below.is_dir():
                yield alias.asname or alias.name, [(f"{statement.module}.{alias.name}", None)]
            else:
                yield alias.asname or alias.name, [(statement.module, alias.name if alias.name != "*" else None)]


def _without_words(tree: ast.Module) -> ast.Module:
    """The tree without docstrings and other strings that stand as statements."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [s for s in body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
            node.body = kept  # type: ignore[attr-defined]
    return tree


def _serialized(node: ast.AST) -> bytes:
    """The tree as text that does not depend on the version of Python: fields that are empty are left out."""

    def write(value: Any) -> str:
        if isinstance(value, ast.AST):
            fields = ((name, item) for name, item in ast.iter_fields(value) if item is not None and item != [])
            inner = ",".join(f"{name}={write(item)}" for name, item in fields if name != "ctx")
            return f"{type(value).__name__}({inner})"
        if isinstance(value, list):
            return f"[{','.join(map(write, value))}]"
        return repr(value)

    return write(node).encode()

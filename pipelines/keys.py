"""What there is to choose and to give: recipes, groups and keys, with near names for what does not exist."""

import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from components.corpus.config import PartConfig
from pipelines.recipe import DERIVED, Options, Recipe, Size

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
DEFAULT_RECIPE = "demo"


def defaults() -> dict[str, Any]:
    """Every key a recipe or command line may set, with its default, as plain values."""

    def plain(value: Any, where: str) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            items = {f.name: f"{where}.{f.name}" if where else f.name for f in dataclasses.fields(value)}
            return {k: plain(getattr(value, k), path) for k, path in items.items() if path not in DERIVED}
        return [plain(item, where) for item in value] if isinstance(value, tuple) else value

    tree: dict[str, Any] = plain(Recipe(), "") | plain(Options(), "")
    return tree


def recipes() -> dict[str, str]:
    """Name of every recipe in conf/, with the first comment line of its file."""
    found = {}
    for path in sorted(CONF.glob("*.yaml")):
        comments = (
            line.lstrip("# ").rstrip() for line in path.read_text(encoding="utf-8").splitlines() if line[:1] == "#"
        )
        found[path.stem] = next((c for c in comments if not c.startswith("@package")), "")
    return found


def groups() -> dict[str, list[str]]:
    """Choices of every group in conf/."""
    return {p.name: sorted(c.stem for c in p.glob("*.yaml")) for p in sorted(CONF.iterdir()) if p.is_dir()}


def for_this_machine() -> set[str]:
    """Recipes that choose `cluster: laptop`; the others need one to be given."""
    local = re.compile(r"^\s*- /cluster: laptop\b", re.MULTILINE)
    return {name for name in recipes() if local.search((CONF / f"{name}.yaml").read_text(encoding="utf-8"))}


def paths(tree: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """Dotted paths of all keys of nested values."""
    for key, value in tree.items():
        path = f"{where}.{key}" if where else str(key)
        yield path
        if isinstance(value, Mapping):
            yield from paths(value, path)


def split_named(path: str) -> tuple[str, str]:
    """`sizes.3b.model.dim` as (`sizes.3b.`, `model.dim`): a size has the keys of an ordinary recipe's model and
    training, a part of `corpus.mixture` those of its own. Any other path as (``, path)."""
    match = re.match(r"(sizes|corpus\.mixture)\.[^.]+\.(?=.)", path)
    return (match[0], path[match.end() :]) if match else ("", path)


def derived(path: str) -> str | None:
    """A sentence on a key that the recipe derives from others, saying what to give instead; None for others."""
    instead = DERIVED.get(split_named(path)[1])
    return f"{path} cannot be given: {instead}" if instead else None


def exists(path: str) -> bool:
    """Whether there is such a key, in any size or part where it is one of these."""
    named, rest = split_named(path)
    return rest in _candidates(named) or bool(re.fullmatch(r"(sizes|corpus\.mixture)\.[^.]+", path))


def unknown_key(path: str) -> str:
    """A sentence on a key that does not exist, with the nearest that do."""
    named, rest = split_named(path)
    every = _candidates(named)
    parent, _, leaf = rest.rpartition(".")
    siblings = [p for p in every if p.rpartition(".")[0] == parent]
    near = [
        f"{parent}.{n}" if parent else n
        for n in difflib.get_close_matches(leaf, [s.rpartition(".")[2] for s in siblings], 3, 0.5)
    ]
    near += [p for p in difflib.get_close_matches(rest, every, 3, 0.7) if p not in near]
    near += [p for p in every if p.rpartition(".")[2] == leaf and p not in near]
    near, siblings = [named + p for p in near], [named + p for p in siblings]
    hint = (
        f"; did you mean {' or '.join(near[:3])}?" if near else f"; there are {', '.join(siblings)}" if siblings else ""
    )
    return f"{path}: no such key{hint}"


def mixture_parts(corpus: str) -> list[str]:
    """The parts that a choice of the group `corpus` has; none for one that is no mixture."""
    from omegaconf import OmegaConf

    path = CONF / "corpus" / f"{corpus}.yaml"
    values = OmegaConf.to_container(OmegaConf.load(path)) if path.is_file() else None
    mixture = values.get("mixture") if isinstance(values, dict) else None
    return [str(name) for name in mixture] if isinstance(mixture, dict) else []


def unknown_choice(given: str, choice: str, choices: Mapping[str, Any] | list[str], what: str) -> str:
    """A sentence on a name that is none of the choices, with the nearest and all of them."""
    near = difflib.get_close_matches(choice, choices, 3, 0.4)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{given}: {what}; {hint}there are {', '.join(choices) or 'none'}"


def _candidates(named: str) -> list[str]:
    if named.startswith("corpus."):
        return [f.name for f in dataclasses.fields(PartConfig)]
    every = [*paths(defaults()), "conf"]
    parts = {f.name for f in dataclasses.fields(Size)}
    return [p for p in every if p.split(".")[0] in parts] if named else every

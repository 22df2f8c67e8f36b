"""What there is to choose and to give: recipes, groups and keys, with near names for what does not exist."""

import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pipelines.recipe import Options

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
PROGRAMS = {None: "full.py", "task": "synthetic.py"}
"""The programs in `pipelines/`, by the field at the top of a file in conf/ that says whose recipe it is."""
R = TypeVar("R")


@dataclass(frozen=True)
class Program(Generic[R]):
    """A program of `pipelines/` that runs recipes of one kind, and what such a recipe may say."""

    kind: type[R]
    """The dataclass of its recipes."""
    mark: str | None
    """As in PROGRAMS."""
    default_recipe: str
    about: str
    """What `--help` begins with."""
    derived_fields: Mapping[str, str]
    """Fields that a recipe derives, with what to give instead."""
    named: Mapping[str, Any]
    """Fields that map names to parts of a recipe, with an example of such a part."""

    @property
    def file(self) -> str:
        return PROGRAMS[self.mark]

    def defaults(self) -> dict[str, Any]:
        """Every key a recipe or command line may set, with its default, as plain values."""
        tree: dict[str, Any] = self._plain(self.kind()) | self._plain(Options())
        return tree

    def _plain(self, value: Any, where: str = "") -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            items = {f.name: f"{where}.{f.name}" if where else f.name for f in dataclasses.fields(value)}
            kept = {k: path for k, path in items.items() if path not in self.derived_fields}
            return {k: self._plain(getattr(value, k), path) for k, path in kept.items()}
        return [self._plain(item, where) for item in value] if isinstance(value, tuple) else value

    def recipes(self) -> dict[str, str]:
        """Name of every recipe of this kind in conf/, with the first comment line of its file."""
        return {name: comment for name, comment in every_recipe().items() if mark_of(name) == self.mark}

    def for_this_machine(self) -> set[str]:
        """Recipes that choose `cluster: laptop`; the others need one to be given."""
        local = re.compile(r"^\s*- /cluster: laptop\b", re.MULTILINE)
        return {name for name in self.recipes() if local.search((CONF / f"{name}.yaml").read_text(encoding="utf-8"))}

    def derived(self, path: str) -> str | None:
        """A sentence on a key that the recipe derives from others, saying what to give instead; None for others."""
        instead = self.derived_fields.get(self.split_named(path)[1])
        return f"{path} cannot be given: {instead}" if instead else None

    def exists(self, path: str) -> bool:
        """Whether there is such a key, in any size or part where it is one of these."""
        named, rest = self.split_named(path)
        parent, _, _ = path.rpartition(".")
        return rest in self._candidates(named) or parent in self.named

    def unknown_key(self, path: str) -> str:
        """A sentence on a key that does not exist, with the nearest that do."""
        named, rest = self.split_named(path)
        every = self._candidates(named)
        parent, _, leaf = rest.rpartition(".")
        siblings = [p for p in every if p.rpartition(".")[0] == parent]
        near = [
            f"{parent}.{n}" if parent else n
            for n in difflib.get_close_matches(leaf, [s.rpartition(".")[2] for s in siblings], 3, 0.5)
        ]
        near += [p for p in difflib.get_close_matches(rest, every, 3, 0.7) if p not in near]
        near += [p for p in every if p.rpartition(".")[2] == leaf and p not in near]
        near, siblings = [named + p for p in near], [named + p for p in siblings]
        if not named:  # a key of every size, given at the top
            near = [f"{of}.NAME.{path}" for of in self.named if path in self._candidates(f"{of}.NAME.")] + near
        hint = ""
        if near or siblings:
            hint = f"; did you mean {' or '.join(near[:3])}?" if near else f"; there are {', '.join(siblings)}"
        return f"{path}: no such key{hint}"

    def unknown_recipe(self, name: str) -> str:
        """A sentence on a recipe that is none of this program's."""
        if name in every_recipe():
            return f"conf={name} is a recipe of another program: python pipelines/{PROGRAMS[mark_of(name)]} conf={name}"
        return unknown_choice(f"conf={name}", name, self.recipes(), "no such recipe")

    def _candidates(self, named: str) -> list[str]:
        if named:
            return [*paths(self._plain(self.named[named[:-1].rpartition(".")[0]]))]
        return [*paths(self.defaults()), "conf"]

    def split_named(self, path: str) -> tuple[str, str]:
        """`sizes.3b.model.dim` as (`sizes.3b.`, `model.dim`): a part that has a name has keys of its own. Any other
        path as (``, path)."""
        match = re.match(rf"({'|'.join(map(re.escape, self.named))})\.[^.]+\.(?=.)", path)
        return (match[0], path[match.end() :]) if match else ("", path)


def every_recipe() -> dict[str, str]:
    """Name of every recipe in conf/, with the first comment line of its file."""
    found = {}
    for path in sorted(CONF.glob("*.yaml")):
        comments = (
            line.lstrip("# ").rstrip() for line in path.read_text(encoding="utf-8").splitlines() if line[:1] == "#"
        )
        found[path.stem] = next((c for c in comments if not c.startswith("@package")), "")
    return found


def mark_of(recipe: str) -> str | None:
    """Whose a recipe is, as in PROGRAMS."""
    text = (CONF / f"{recipe}.yaml").read_text(encoding="utf-8")
    return next((mark for mark in PROGRAMS if mark and re.search(rf"^{mark}:", text, re.MULTILINE)), None)


def groups() -> dict[str, list[str]]:
    """Choices of every group in conf/."""
    return {p.name: sorted(c.stem for c in p.glob("*.yaml")) for p in sorted(CONF.iterdir()) if p.is_dir()}


def paths(tree: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """Dotted paths of all keys of nested values."""
    for key, value in tree.items():
        path = f"{where}.{key}" if where else str(key)
        yield path
        if isinstance(value, Mapping):
            yield from paths(value, path)


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

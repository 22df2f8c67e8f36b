"""The boundary to Hydra: `conf=NAME` and overrides in, a Recipe and Options out, or every fault at once.

Hydra only composes plain values; what they may be is decided by the dataclasses of `pipelines.recipe`.
"""

import dataclasses
import difflib
import math
import re
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.recipe import DERIVED, Options, Recipe

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
DEFAULT_RECIPE = "demo"


class Faults(Exception):
    """Everything that is wrong with a recipe, a line each."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = list(faults)


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


def build(values: Mapping[str, Any]) -> tuple[Recipe, Options]:
    """Plain values to dataclasses. Raises Faults naming every unknown key, wrong type and value out of range."""
    from pydantic import TypeAdapter, ValidationError

    given = {key: value for key, value in values.items() if key != "conf"}
    faults, known = _strip_unknown(given, (Recipe, Options), "")
    faults += _foreign_numbers(known, (Recipe, Options), "")
    names = {f.name for f in dataclasses.fields(Options)}
    built: list[Any] = []
    for target, part in (
        (Recipe, {k: v for k, v in known.items() if k not in names}),
        (Options, {k: v for k, v in known.items() if k in names}),
    ):
        removed: set[str] = set()
        while True:  # what is wrong is taken out, so that the rest is looked at too
            try:
                made = TypeAdapter(target).validate_python(part)
            except ValidationError as error:
                lines = [line for e in error.errors() for line in _sentences(dict(e))]
                faults += [line for line in lines if not any(_names(line, path) for path in removed)]
                wrong = {line.split(": ")[0].split(" ")[0] for line in lines} & {*_paths(part)}
                if not wrong:
                    break
                removed |= wrong
                part = _without(part, wrong)
            else:
                built.append(made)
                break
    if faults:
        raise Faults(faults)
    return _absolute_paths(built[0]), built[1]


def recorded_recipe(values: Mapping[str, Any]) -> Recipe:
    """The recipe that a run wrote down. Raises Faults where this version no longer knows a key of it."""
    return build(_without(values, DERIVED))[0]


def _names(line: str, path: str) -> bool:
    """Whether a sentence speaks of the key at this dotted path."""
    return re.search(rf"(?<![\w.]){re.escape(path)}(?![\w]|\.\w)", line) is not None


def _without(values: Mapping[str, Any], paths: Collection[str], where: str = "") -> dict[str, Any]:
    """Nested values without the keys at these dotted paths."""
    kept = {}
    for key, value in values.items():
        path = f"{where}.{key}" if where else key
        if path not in paths:
            kept[key] = _without(value, paths, path) if isinstance(value, Mapping) else value
    return kept


def _absolute_paths(recipe: Recipe) -> Recipe:
    """A path on the command line means the directory one stands in, wherever a worker stands."""
    if recipe.corpus.path is None:
        return recipe
    path = str(Path(recipe.corpus.path).expanduser().absolute())
    return dataclasses.replace(recipe, corpus=dataclasses.replace(recipe.corpus, path=path))


def _sentences(error: Mapping[str, Any]) -> list[str]:
    """A pydantic error as lines: where, what is wrong, what was given. A dataclass names all its faults at once."""
    path = ".".join(str(part) for part in error["loc"])
    message = str(error["msg"]).removeprefix("Value error, ")
    lines = message.splitlines()
    if error["type"] == "value_error":
        every = {*_paths(defaults())}
        named = [f"{path}.{line}" if f"{path}.{line.split()[0]}" in every else f"{path}: {line}" for line in lines]
        return named if path else lines
    given = error["input"]
    if error["type"] == "tuple_type":
        message = f"input should be a list, such as [{given}]"
    shown = f" (given: {given!r})" if not isinstance(given, Mapping) else ""
    return [f"{path}: {message[:1].lower()}{message[1:]}{shown}"]


def _fields(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}


def _strip_unknown(values: Mapping[str, Any], kinds: tuple[Any, ...], where: str) -> tuple[list[str], dict[str, Any]]:
    """Unknown or derived keys as faults, and the values without them."""
    hints: dict[str, Any] = {}
    for kind in kinds:
        hints |= _fields(kind)
    faults: list[str] = []
    known: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{where}.{key}" if where else str(key)
        if path in DERIVED:
            faults.append(f"{path} cannot be given: {DERIVED[path]}")
        elif key not in hints:
            faults.append(unknown_key(path))
        elif dataclasses.is_dataclass(hints[key]) and isinstance(value, Mapping):
            below, known[key] = _strip_unknown(value, (hints[key],), path)
            faults += below
        else:
            known[key] = value
    return faults, known


def _foreign_numbers(values: Mapping[str, Any], kinds: tuple[Any, ...], where: str) -> list[str]:
    """True and False where a number belongs (Python would take them for 1 and 0), infinity and NaN anywhere."""
    hints: dict[str, Any] = {}
    for kind in kinds:
        hints |= _fields(kind)
    faults = []
    for key, value in values.items():
        path = f"{where}.{key}" if where else key
        if isinstance(value, Mapping) and dataclasses.is_dataclass(hints[key]):
            faults += _foreign_numbers(value, (hints[key],), path)
        elif isinstance(value, bool) and hints[key] is not bool:
            faults.append(f"{path}: input should be {getattr(hints[key], '__name__', hints[key])} (given: {value!r})")
        elif isinstance(value, float) and not math.isfinite(value):
            faults.append(f"{path}: input should be finite; a large number stands for no limit (given: {value!r})")
    return faults


def _paths(tree: Mapping[str, Any], where: str = "") -> Iterator[str]:
    for key, value in tree.items():
        path = f"{where}.{key}" if where else key
        yield path
        if isinstance(value, Mapping):
            yield from _paths(value, path)


def unknown_key(path: str) -> str:
    """A sentence on a key that does not exist, with the nearest that do."""
    every = [*_paths(defaults()), "conf"]
    parent, _, leaf = path.rpartition(".")
    siblings = [p for p in every if p.rpartition(".")[0] == parent]
    near = [
        f"{parent}.{n}" if parent else n
        for n in difflib.get_close_matches(leaf, [s.rpartition(".")[2] for s in siblings], 3, 0.5)
    ]
    near += [p for p in difflib.get_close_matches(path, every, 3, 0.7) if p not in near]
    near += [p for p in every if p.rpartition(".")[2] == leaf and p not in near]
    hint = (
        f"; did you mean {' or '.join(near[:3])}?" if near else f"; there are {', '.join(siblings)}" if siblings else ""
    )
    return f"{path}: no such key{hint}"


def faults_of_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """(faults, arguments without them): keys and recipes on the command line that do not exist.

    Hydra would stop at the first of them and offer no near names.
    """
    tree = defaults()
    every = {*_paths(tree), "conf"}
    groups = {p.name for p in CONF.iterdir() if p.is_dir()}
    faults, good = [], []
    given: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or key.startswith(("-", "hydra", "~")):
            good.append(argument)
            continue
        name = key.lstrip("+")
        if given.setdefault(name, value) != value:
            faults.append(f"{name} is given twice, as {given[name]} and as {value}: give it once")
        elif name in DERIVED:
            faults.append(f"{name} cannot be given: {DERIVED[name]}")
        elif name not in every and name not in groups:
            faults.append(unknown_key(name))
        elif name == "conf" and (missing := [v for v in value.split(",") if v not in recipes()]):
            near = difflib.get_close_matches(missing[0], recipes(), 3, 0.4)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            faults.append(f"conf={missing[0]}: no such recipe; {hint}there are {', '.join(recipes())}")
        elif name in groups and value and not value.startswith(("{", "[")):
            options = sorted(p.stem for p in (CONF / name).glob("*.yaml"))
            wrong = [v for v in value.split(",") if v not in options]
            if wrong:
                faults.append(
                    f"{name}={wrong[0]}: no such choice in conf/{name}/; there are {', '.join(options) or 'none'}"
                )
            else:
                good.append(argument)
        else:
            good.append(argument)
    return faults, good


def with_home(argument: str) -> str:
    """`corpus.path=~/src,~/lib` with the home folder in place of `~`, which shells leave and Hydra cannot read."""
    key, equals, value = argument.partition("=")
    if not equals or "~" not in value:
        return argument
    return f"{key}={','.join(str(Path(v).expanduser()) if v.startswith('~') else v for v in value.split(','))}"


def register(sweep_folder: str = ".") -> None:
    """Tell Hydra the defaults, and where a sweep may write its own record of itself."""
    from hydra.core.config_store import ConfigStore

    listing = "\n".join(f"  conf={name:<12} {text}" for name, text in recipes().items())
    header = (
        "Headstart: train language models that predict several tokens at once, and measure what it buys.\n\n"
        f"python pipelines/full.py conf=NAME [key=value …]\n\nRecipes:\n{listing}\n\n"
        "Options:\n"
        "  plan=true          show what would run and why, run nothing\n"
        "  workspace=PATH     where everything goes (default: runs)\n"
        "  until=pretrain     run up to a stage        only=[evaluate]   run these, reuse the rest\n"
        "  reuse=none         make everything anew     -m seed=1,2,3     a sweep\n\n"
        "Every field: conf/README.md. The composed recipe: --cfg job"
    )
    store = ConfigStore.instance()
    store.store(name="recipe_defaults", node=defaults())
    store.store(
        name="full",
        node={
            "defaults": [
                "recipe_defaults",
                {"cpu": "avx512"},
                {"gpu": "h100"},
                {"conf": DEFAULT_RECIPE},
                "_self_",
                {"override hydra/job_logging": "none"},
                {"override hydra/hydra_logging": "none"},
            ],
            "hydra": {
                "searchpath": [f"file://{ROOT}"],
                "output_subdir": None,
                "run": {"dir": "."},
                "job": {"chdir": False},
                "sweep": {"dir": sweep_folder, "subdir": "."},
                "help": {
                    "app_name": "headstart",
                    "header": header,
                    "template": "${hydra.help.header}\n\nGroups (NAME=CHOICE):\n$APP_CONFIG_GROUPS",
                },
            },
        },
    )


def compose(overrides: Sequence[str] = ()) -> tuple[Recipe, Options]:
    """A recipe by overrides, without a command line: `compose(["conf=bytes", "seed=2"])`. Raises Faults."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    faults, good = faults_of_overrides([with_home(override) for override in overrides])
    register()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            values = OmegaConf.to_container(hydra_compose("full", overrides=list(good)), resolve=True)
        assert isinstance(values, dict)
        built = build({str(k): v for k, v in values.items()})
    except Faults as error:
        raise Faults(faults + error.faults) from None
    except (HydraException, OmegaConfBaseException) as error:
        raise Faults([*faults, str(error).splitlines()[0]]) from None
    if faults:
        raise Faults(faults)
    return built

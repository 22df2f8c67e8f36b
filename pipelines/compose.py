"""The boundary to Hydra: `conf=NAME` and overrides in, a Recipe and Options out, or every fault at once.

Hydra only composes plain values; what they may be is decided by the dataclasses of `pipelines.recipe`.
"""

import dataclasses
import math
import re
import typing
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from components.corpus.remote import is_uri
from pipelines import keys
from pipelines.keys import Program, R
from pipelines.overrides import faults_of_overrides, for_hydra, readable
from pipelines.programs import FULL
from pipelines.recipe import Options

PLACEHOLDER_VOCABULARY = 32_000
"""Stands for a size that cannot be known, so that only that is said of it."""


class Faults(Exception):
    """Everything that is wrong with a recipe, a line each."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = list(faults)


def build(values: Mapping[str, Any], program: Program[R]) -> tuple[R, Options]:
    """Plain values to dataclasses. Raises Faults naming every unknown key, wrong type and value out of range."""
    from pydantic import TypeAdapter, ValidationError

    given = {key: value for key, value in values.items() if key != "conf"}
    faults, known = _strip_unknown(given, (program.kind, Options), "", program)
    faults += _foreign_numbers(known, (program.kind, Options), "")
    if isinstance(tokenizer := known.get("tokenizer"), Mapping):
        more, known["tokenizer"] = _with_vocabulary(tokenizer)
        faults += more
    names = {f.name for f in dataclasses.fields(Options)}
    built: list[Any] = []
    for target, part in (
        (program.kind, {k: v for k, v in known.items() if k not in names}),
        (Options, {k: v for k, v in known.items() if k in names}),
    ):
        removed: set[str] = set()
        while True:  # what is wrong is taken out, so that the rest is looked at too
            try:
                made = TypeAdapter(target).validate_python(part)
            except ValidationError as error:
                lines = [line for e in error.errors() for line in _sentences(dict(e), program)]
                faults += [line for line in lines if not any(_names(line, path) for path in removed)]
                wrong = {line.split(": ")[0].split(" ")[0] for line in lines} & {*keys.paths(part)}
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


def recorded_recipe(values: Mapping[str, Any], program: Program[R]) -> R:
    """The recipe that a run of the program wrote down. Raises Faults where this version no longer knows a key of it."""
    return build(_without(values, [path for path in keys.paths(values) if program.derived(path)]), program)[0]


def _names(line: str, path: str) -> bool:
    """Whether a sentence speaks of the key at this dotted path, or of its name beside a neighbour."""
    parent, _, leaf = path.rpartition(".")
    name = leaf if line.startswith(f"{parent}.") else path
    return re.search(rf"(?<![\w.]){re.escape(name)}(?![\w]|\.\w)", line) is not None


def _without(values: Mapping[str, Any], paths: Collection[str], where: str = "") -> dict[str, Any]:
    """Nested values without the keys at these dotted paths."""
    kept = {}
    for key, value in values.items():
        path = f"{where}.{key}" if where else key
        if path not in paths:
            kept[key] = _without(value, paths, path) if isinstance(value, Mapping) else value
    return kept


def _with_vocabulary(tokenizer: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Faults, and a tokenizer's values with the size of the vocabulary that its model file has: a plan needs the
    number, as the models' parameters depend on it."""
    from components.tokenizer.own import vocabulary_size_of

    path, size = tokenizer.get("model_path"), tokenizer.get("vocabulary_size")
    if not isinstance(path, str) or tokenizer.get("kind") == "bytes":
        return [], dict(tokenizer)
    path = str(Path(path).expanduser().absolute())
    known = {**tokenizer, "model_path": path}
    try:
        found = vocabulary_size_of(path)
    except ValueError as error:
        if size is not None and not Path(path).exists():  # planned where the file is not; a run will want it
            return [], known
        fault = f"tokenizer.{error}; with vocabulary_size=N a plan goes without the file"
        return [fault], {**known, "vocabulary_size": PLACEHOLDER_VOCABULARY}
    if size is not None and size != found:
        return [f"tokenizer.vocabulary_size is {size}, but {path} has {found} symbols; give null"], known
    return [], {**known, "vocabulary_size": found}


def _absolute_paths(value: Any) -> Any:
    """A recipe whose paths say where they lead from any directory: one on the command line means the directory one
    stands in, wherever a worker stands."""
    if isinstance(value, Mapping):
        return {key: _absolute_paths(item) for key, item in value.items()}
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    given = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    return dataclasses.replace(
        value, **{k: _absolute(v) if k == "path" else _absolute_paths(v) for k, v in given.items()}
    )


def _absolute(path: str | None) -> str | None:
    """A URI with a scheme stays as it is."""
    return path if path is None or is_uri(path) else str(Path(path).expanduser().absolute())


def _sentences(error: Mapping[str, Any], program: Program[Any]) -> list[str]:
    """A pydantic error as lines: where, what is wrong, what was given. A dataclass names all its faults at once."""
    path = ".".join(str(part) for part in error["loc"])
    message = str(error["msg"]).removeprefix("Value error, ")
    lines = message.splitlines()
    if error["type"] == "value_error":
        named = [
            f"{path}.{line}" if program.exists(f"{path}.{line.split()[0]}") else f"{path}: {line}" for line in lines
        ]
        return named if path else lines
    given = error["input"]
    if error["type"] == "tuple_type":
        message = f"input should be a list, such as [{given}]"
    shown = f" (given: {given!r})" if not isinstance(given, Mapping) else ""
    if error["type"] == "literal_error":
        message = message.replace("True", "true").replace("False", "false")
    return [f"{path}: {message[:1].lower()}{message[1:]}{shown}"]


def _fields(kinds: tuple[Any, ...], values: Mapping[str, Any]) -> dict[str, Any]:
    """What each key may be, in dataclasses or in a mapping of dataclasses; of the latter, for the keys in `values`."""
    hints: dict[str, Any] = {}
    for kind in kinds:
        if dataclasses.is_dataclass(kind):
            hints |= typing.get_type_hints(kind)
        else:
            hints |= dict.fromkeys(values, typing.get_args(kind)[1])
    return hints


def _has_fields(kind: Any) -> bool:
    """Whether a type is a dataclass or a mapping of dataclasses."""
    return dataclasses.is_dataclass(kind) or typing.get_origin(kind) is Mapping


def _strip_unknown(
    values: Mapping[str, Any], kinds: tuple[Any, ...], where: str, program: Program[Any]
) -> tuple[list[str], dict[str, Any]]:
    """Unknown or derived keys as faults, and the values without them."""
    hints = _fields(kinds, values)
    faults: list[str] = []
    known: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{where}.{key}" if where else str(key)
        if fault := program.derived(path):
            faults.append(fault)
        elif key not in hints:
            faults.append(program.unknown_key(path))
        elif _has_fields(hints[key]) and isinstance(value, Mapping):
            below, known[key] = _strip_unknown(value, (hints[key],), path, program)
            faults += below
        else:
            known[key] = value
    return faults, known


def _foreign_numbers(values: Mapping[str, Any], kinds: tuple[Any, ...], where: str) -> list[str]:
    """True and False where a number belongs (Python would take them for 1 and 0), infinity and NaN anywhere."""
    hints = _fields(kinds, values)
    faults = []
    for key, value in values.items():
        path = f"{where}.{key}" if where else key
        if isinstance(value, Mapping) and _has_fields(hints[key]):
            faults += _foreign_numbers(value, (hints[key],), path)
        elif isinstance(value, bool) and hints[key] is not bool and True not in typing.get_args(hints[key]):
            faults.append(f"{path}: input should be {getattr(hints[key], '__name__', hints[key])} (given: {value!r})")
        elif isinstance(value, float) and not math.isfinite(value):
            faults.append(f"{path}: input should be finite; a large number stands for no limit (given: {value!r})")
    return faults


def _help(program: Program[Any]) -> str:
    local, every = program.for_this_machine(), program.recipes()
    width = max(map(len, every))

    def listing(title: str, names: Collection[str]) -> str:
        return "\n".join([title, *(f"  conf={name:<{width}} {every[name]}" for name in every if name in names)])

    return (
        f"{program.about}\n\n"
        f"python pipelines/{program.file} conf=NAME [key=value …]\n\n"
        f"{listing('Recipes for this machine:', local)}\n\n"
        f"{listing('Recipes of the paper, for a cluster:', every.keys() - local)}\n\n"
        "Options:\n"
        "  plan=true          show what would run and why, run nothing\n"
        "  plan=simulate      and what each device would hold and send in a step, from the training code itself\n"
        "  workspace=PATH     where everything goes (default: runs)\n"
        "  until=pretrain     run up to a stage        only=[evaluate]   run these, reuse the rest\n"
        "  reuse=none         make everything anew     -m seed=1,2,3     a sweep\n\n"
        "Every field: conf/README.md. The composed recipe: --cfg job"
    )


def register(program: Program[Any], sweep_folder: str = ".") -> None:
    """Tell Hydra the defaults, and where a sweep may write its own record of itself."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(name="recipe_defaults", node=program.defaults())
    store.store(
        name="full",
        node={
            "defaults": [
                "recipe_defaults",
                {"cpu": "avx512"},
                {"gpu": "h100"},
                {"conf": program.default_recipe},
                "_self_",
                {"override hydra/job_logging": "none"},
                {"override hydra/hydra_logging": "none"},
            ],
            "hydra": {
                "searchpath": [f"file://{keys.ROOT}"],
                "output_subdir": None,
                "run": {"dir": "."},
                "job": {"chdir": False},
                "sweep": {"dir": sweep_folder, "subdir": "."},
                "help": {
                    "app_name": "headstart",
                    "header": _help(program),
                    "template": "${hydra.help.header}\n\nGroups (NAME=CHOICE):\n$APP_CONFIG_GROUPS",
                },
            },
        },
    )


def _composed(overrides: Sequence[str], program: Program[Any]) -> dict[str, Any]:
    """What Hydra makes of overrides, as plain values. Raises Faults with its first complaint."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    register(program)
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(keys.CONF)):
            values = OmegaConf.to_container(hydra_compose("full", overrides=list(overrides)), resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise Faults([str(error).splitlines()[0]]) from None
    assert isinstance(values, dict)
    return {str(k): v for k, v in values.items()}


def sizes_of(recipe: str, program: Program[Any]) -> Collection[str]:
    """Names of the sizes of a recipe in conf/. Raises Faults where its file is at fault."""
    sizes: Collection[str] = _composed([f"conf={recipe}"], program)["sizes"]
    return sizes


def compose(overrides: Sequence[str] = (), program: Program[Any] = FULL) -> tuple[Any, Options]:
    """A recipe by overrides, without a command line: `compose(["conf=bytes", "seed=2"])`. Raises Faults."""
    given = [readable(override) for override in overrides]
    faults, good = faults_of_overrides(given, program, partial(sizes_of, program=program))
    try:
        built = build(_composed([for_hydra(override, program) for override in good], program), program)
    except Faults as error:
        raise Faults(faults + error.faults) from None
    if faults:
        raise Faults(faults)
    return built

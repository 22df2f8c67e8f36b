"""Arguments of the command line: what is wrong with them, and how Hydra is told of them."""

import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from components.corpus.remote import is_uri
from pipelines.keys import Program, groups, mixture_parts, paths, unknown_choice


def readable(argument: str) -> str:
    """An override as Hydra can read it: with the home folder in place of `~`, which shells leave there
    (`corpus.path=~/src,~/lib`), and with quotes around a URI with a query (`corpus.path=s3://bucket?region=eu`)."""
    key, equals, value = argument.partition("=")
    if equals and is_uri(value) and "=" in value:
        return f"{key}=" + ",".join(f"'{one}'" for one in re.split(r",(?=\w+://)", value))
    if not equals or "~" not in value:
        return argument
    return f"{key}={','.join(str(Path(v).expanduser()) if v.startswith('~') else v for v in value.split(','))}"


def faults_of_overrides(
    arguments: Sequence[str], program: Program[Any], sizes_of: Callable[[str], Collection[str]]
) -> tuple[list[str], list[str]]:
    """(faults, arguments without them): keys, recipes, choices and sizes that do not exist, keys with two values.

    Hydra would stop at the first of them and offer no near names. `sizes_of` names the sizes of a recipe.
    """
    faults, good = [], []
    given: dict[str, str] = {}
    for argument in arguments:
        fault = _fault(argument, arguments, given, program, sizes_of)
        if fault is None:
            good.append(argument)
        else:
            faults.append(fault)
    return faults, good


def _fault(
    argument: str,
    arguments: Sequence[str],
    given: dict[str, str],
    program: Program[Any],
    sizes_of: Callable[[str], Collection[str]],
) -> str | None:
    """What is wrong with an argument. `given`: the values of those before it, to which it is added."""
    key, equals, value = argument.partition("=")
    if key.startswith("~") and (program.exists(key[1:]) or key[1:] in groups()):
        return f"{key}: a recipe has every field; nothing can be taken out of it, only given another value"
    if not equals and program.exists(key):
        return f"{key}: give it a value, such as {key}=…"
    if not equals and not argument.startswith("-"):
        near = [
            f"{name}={argument}" for name, there in {"conf": program.recipes(), **groups()}.items() if argument in there
        ]
        hint = f"; did you mean {' or '.join(near)}?" if near else "; a glob needs quotes, else the shell spreads it"
        return f"{argument}: an argument is KEY=VALUE{hint}"
    if not equals or key.startswith(("-", "hydra", "~")):
        return None
    name, offered = key.lstrip("+"), groups().get(key.lstrip("+"))
    if given.setdefault(name, value) != value:
        return f"{name} is given twice, as {given[name]} and as {value}: give it once"
    if fault := program.derived(name):
        return fault
    if "@" in name:
        return (
            f"{name}: a group is put elsewhere by a recipe's file alone; here give fields, as in sizes.3b.model.dim=…"
        )
    if offered is None and not program.exists(name):
        return program.unknown_key(name)
    if fault := _unreadable(argument, program):
        return fault
    if "," in value and not {"-m", "--multirun"} & {*arguments} and len(_swept(value)) > 1:
        return f"{name} has several values, {value}: add -m for a sweep over them, or write [{value}] for a list"
    if name == "conf" and (missing := [v for v in value.split(",") if v not in program.recipes()]):
        return program.unknown_recipe(missing[0])
    if offered is not None and value and not value.startswith(("{", "[")):
        wrong = [v for v in value.split(",") if v not in offered]
        if wrong:
            return unknown_choice(f"{name}={wrong[0]}", wrong[0], offered, f"no such choice in conf/{name}/")
    if name.startswith("corpus.mixture.") and name == key and (fault := _fault_of_part(name, arguments)):
        return fault
    if name.startswith("sizes.") and name == key:  # with a plus it may be a new one
        return _fault_of_size(name.split(".")[1], _recipes_of(arguments, program), sizes_of)
    return None


def _unreadable(argument: str, program: Program[Any]) -> str | None:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(for_hydra(argument, program))
    except HydraException:
        return f"{argument}: not readable; quote what has brackets, commas or spaces, as in 'corpus.path=\"a b\"'"
    return None


def _recipes_of(arguments: Sequence[str], program: Program[Any]) -> list[str]:
    """The recipes that the arguments choose; those that do not exist left out."""
    chosen = [a.removeprefix("conf=") for a in arguments if a.startswith("conf=")]
    return [
        name for name in (chosen[-1].split(",") if chosen else [program.default_recipe]) if name in program.recipes()
    ]


def _fault_of_part(name: str, arguments: Sequence[str]) -> str | None:
    """Of a field of a mixture's part, where a corpus with parts is chosen: with a plus the part may be a new one."""
    chosen = [a.removeprefix("corpus=") for a in arguments if a.startswith("corpus=")]
    parts = mixture_parts(chosen[-1]) if chosen else []
    part = name.split(".")[2]
    return unknown_choice(name, part, parts, "no such part of the mixture") if parts and part not in parts else None


def _fault_of_size(size: str, chosen: Sequence[str], sizes_of: Callable[[str], Collection[str]]) -> str | None:
    for recipe in chosen:
        sizes = list(sizes_of(recipe))
        if not sizes:
            return f"sizes.{size}: the recipe {recipe} has no sizes; give model.… and training.… themselves"
        if size not in sizes:
            return unknown_choice(f"sizes.{size}", size, sizes, f"no such size in the recipe {recipe}")
    return None


def for_hydra(argument: str, program: Program[Any]) -> str:
    """`sizes.3b.training.steps=10` as `++sizes={3b:{training:{steps:10}}}`: Hydra reads no path with a part that
    begins with a digit, and a size's keys exist in the dataclasses rather than in the composed values. So do those of
    a mixture's parts and of schedules."""
    key, equals, value = argument.partition("=")
    there = paths(program.defaults())
    if equals and re.match(r"\+[^+]", key) and key[1:] in there and value not in groups().get(key[1:], ()):
        return argument[1:]  # Hydra would not add what is there
    if equals and key.lstrip("+").startswith(("corpus.mixture", "schedules")):
        return f"++{argument.lstrip('+')}"
    match = re.fullmatch(r"\+{0,2}sizes\.([\w.]+)", key)
    if not equals or match is None:
        return argument
    for part in reversed(match[1].split(".")):
        value = ",".join(f"{{{part}:{one}}}" for one in _swept(value))
    return f"++sizes={value}"


def as_written(override: str) -> str:
    """What `for_hydra` made of a field of a size or part, or Hydra of one value of its sweep, as a person writes it."""
    if override.startswith(("++corpus.mixture", "++schedules")):
        return override[2:]
    match = re.fullmatch(r"\+\+sizes=\{(\w+):\{(\w+):\{(\w+):(.*)\}\}\}", override)
    return f"sizes.{match[1]}.{match[2]}.{match[3]}={match[4]}" if match else override


def _swept(value: str) -> list[str]:
    """The values of a sweep, `1,2` or `range(1,3)`; a single value as it is."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(f"value={value}")
    except HydraException:  # see _unreadable
        return [value]
    return list(override.sweep_string_iterator()) if override.is_sweep_override() else [value]

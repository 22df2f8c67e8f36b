"""Look into the store of a workspace, and clear it of what nothing leads to.

python pipelines/store.py list                       every result, its size, and the runs that link to it
python pipelines/store.py why pretrain-n4            what made a result, and what would make it stale
python pipelines/store.py diff pretrain-n1 pretrain-n4
python pipelines/store.py gc                         what could go; --delete lets it go

A result is named as in runs/latest/, as RUN/NAME for another run, or by the beginning of its key.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from components.flow.garbage import delete, latest_runs, runs, tree_bytes, unreferenced
from components.flow.identity import differences
from components.flow.plan import make_plan
from components.flow.quantity import duration, size
from components.flow.run import Refused, workspace_lock
from components.flow.source import changed_files
from components.flow.store import Manifest, NewerStore, Store
from pipelines.compose import Faults, recorded_recipe
from pipelines.keys import Program
from pipelines.programs import FULL, SYNTHETIC

SHORT_KEY = 10


def parser() -> argparse.ArgumentParser:
    """Arguments of the command line."""
    main = argparse.ArgumentParser(
        prog="store.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    main.add_argument("--workspace", metavar="PATH", type=Path, default=Path("runs"), help="default: runs")
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")
    after = argparse.ArgumentParser(add_help=False)  # the option may stand behind the command, too
    after.add_argument("--workspace", metavar="PATH", type=Path, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    commands.add_parser("list", parents=[after], help="every result")
    why = commands.add_parser("why", parents=[after], help="what made a result, and what would make it stale")
    why.add_argument("result", metavar="STAGE")
    diff = commands.add_parser("diff", parents=[after], help="what two results differ in")
    diff.add_argument("a", metavar="A")
    diff.add_argument("b", metavar="B")
    gc = commands.add_parser(
        "gc", parents=[after], help="what neither a recipe's latest whole run nor one since links to"
    )
    gc.add_argument("--delete", action="store_true", help="delete it; without this nothing is touched")
    return main


def show_list(console: Console, workspace: Path, store: Store) -> None:
    """A row per result and per piece of partial work."""
    linked: dict[tuple[str, str], list[str]] = {}
    for run, record in runs(workspace).items():
        for stage in record.get("stages", {}).values():
            linked.setdefault((stage["stage"], stage["key"]), []).append(run)
    latest = {run: f"{recipe} (latest)" for recipe, names in latest_runs(workspace).items() for run in names}
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("result", "key", "made"):
        table.add_column(name, no_wrap=True)
    for name in ("took", "size"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("linked by", overflow="fold")
    total = 0
    for place in sorted(p for p in store.root.glob("*/*") if p.is_dir()):
        stage, key = place.parent.name, place.name
        manifest, n_bytes = store.find(stage, key), tree_bytes(place)
        total += n_bytes
        by = linked.get((stage, key), [])
        words = list(dict.fromkeys(latest[run] for run in by if run in latest))
        if earlier := sum(run not in latest for run in by):
            words.append(f"{earlier} earlier run{'s' * (earlier > 1)}")
        partial = store.committed_work(stage, key)
        state = f"{partial[0]} of {partial[1]}, not finished" if partial else "never finished"
        table.add_row(
            manifest.name if manifest else Text(f"{stage}: {state}", style="yellow"),
            key[:SHORT_KEY],
            time.strftime("%Y-%m-%d %H:%M", time.localtime(manifest.started)) if manifest else "",
            duration(manifest.seconds) if manifest else "",
            size(n_bytes),
            Text(", ".join(words) or "nothing", style="" if words else "dim"),
        )
    console.print(table)
    console.print(Text(f"{size(total)} in {store.root}", style="dim"), soft_wrap=True)


def find(workspace: Path, store: Store, name: str) -> Manifest:
    """The result that a person means. ValueError lists what there is."""
    run, _, node = name.rpartition("/")
    folder = run or "latest"
    links = {p.name: p for p in (workspace / folder).glob("*") if p.is_symlink()}
    if node in links:
        place = links[node].resolve().parent
        if found := store.find(place.parent.name, place.name):
            return found
    keys = [p for p in store.root.glob(f"*/{name}*") if p.is_dir()] if not run and len(name) >= 4 else []
    manifests = [m for p in keys if (m := store.find(p.parent.name, p.name))]
    if len(manifests) == 1:
        return manifests[0]
    if manifests:
        raise ValueError(f"{name} begins the keys of {', '.join(m.key for m in manifests)}: give more of it")
    there = ", ".join(sorted(links)) or "no result"
    raise ValueError(f"{folder}/{node} leads to no result; {workspace / folder} has {there}")


def show_why(console: Console, workspace: Path, store: Store, name: str) -> None:
    """What made it, from what, with which code, and what a run of the same recipe would do with it now."""
    made = find(workspace, store, name)
    lines = {
        "result": f"{made.title}: {store.directory(made)}",
        "made": f"{time.strftime('%Y-%m-%d %H:%M', time.localtime(made.started))}, in {duration(made.seconds)}",
        "by": f"{' '.join(made.command)}   (commit {made.git_commit or 'unknown'})",
        "on": "; ".join(
            [", ".join(f"{k} {v}" for k, v in facts.items()) for facts in (made.machine, made.versions) if facts]
        ),
        "from": ", ".join(f"{i['name']} {i['key'][:SHORT_KEY]}" for i in made.inputs) or "nothing but its config",
        "digest": made.artifact["digest"],
    }
    if made.identity.get("external"):
        lines["reads"] = json.dumps(made.identity["external"])[:300]
    for attempt in made.history or []:
        lines[f"from step {attempt['done']}"] = f"commit {attempt['git_commit'] or 'unknown'}"
    _facts(console, lines)

    console.print("\n[bold]Stale when one of these changes[/]")
    flat = ", ".join(f"{path}={json.dumps(value)}" for path, value in _flat(made.identity["config"]).items())
    stale = {
        "config": flat or "none",
        "contents": ", ".join(i["name"] for i in made.inputs) or "none",
        "version": str(made.identity["version"]),
        "code": ", ".join(made.source or {}) or "not recorded",
    }
    if made.identity.get("machine"):
        stale["machine"] = json.dumps(made.identity["machine"])
    _facts(console, stale)
    console.print(f"\n[bold]Now[/] {_fate_now(workspace, store, made, name)}", soft_wrap=True)


def _fate_now(workspace: Path, store: Store, made: Manifest, name: str) -> str:
    """What a run of the recipe, as it was last run, would do with the result."""
    from pipelines import full, synthetic
    from pipelines.jobs import Way, capacity_of, telling

    folder = (workspace / (name.rpartition("/")[0] or "latest")).resolve().name
    record = runs(workspace).get(folder, {})
    recipe = record.get("recipe")
    if not recipe:
        return f"{folder} recorded no recipe"
    try:
        program: Program[Any] = FULL
        way: Way[Any] = full.WAY
        if SYNTHETIC.mark in recipe:
            program, way = SYNTHETIC, synthetic.WAY
        known = recorded_recipe(recipe, program)
        graph, capacity = way.graph(known, telling(record["command"][1:])), capacity_of(known, plan=False)
    except (Faults, ValueError) as error:
        return f"the recipe of {folder} cannot be read any more: {error}"
    reuse = record.get("reuse", "source")
    for row in make_plan(graph, store, "source" if reuse == "none" else reuse, capacity=capacity).nodes:
        if row.node.name == made.name:
            if row.manifest is not None and row.manifest.key != made.key:
                return f"another result takes its place: {row.manifest.key[:SHORT_KEY]}, {row.reason}"
            return f"{row.status}: {row.reason}"
    return f"no node of {folder} is called {made.name}"


def show_diff(console: Console, workspace: Path, store: Store, a: str, b: str) -> None:
    """Every field of identity, inputs, source, versions and artifact in which two results differ."""
    one, two = find(workspace, store, a), find(workspace, store, b)
    if one.key == two.key and one.stage == two.stage:
        console.print(f"{a} and {b} are the same result, {one.key}")
        return

    if one.stage != two.stage:
        console.print(f"{a} was made by the stage {one.stage}, {b} by {two.stage}: they have nothing to compare")
        return

    def digests(made: Manifest) -> Mapping[str, Any]:
        return {i["name"]: i["digest"][:SHORT_KEY] for i in made.inputs}

    parts = {
        "identity": differences(one.identity, two.identity),
        "inputs": differences(digests(one), digests(two)),
        "code": changed_files(one.source, two.source or {}),
        "versions": differences(one.versions, two.versions) + differences(one.machine, two.machine),
        "result": differences(one.artifact, two.artifact),
    }
    for part, lines in parts.items():
        for line in lines:
            console.print(Text.assemble((f"{part:<9}", "dim"), line), soft_wrap=True)


def show_garbage(console: Console, workspace: Path, really: bool) -> None:
    """What could go; with `really`, let it go."""
    with workspace_lock(workspace):
        garbage = unreferenced(workspace)
        for item in garbage:
            console.print(
                f"{size(item.bytes):>9}  {item.path.relative_to(workspace)}   [dim]{item.why}[/]", soft_wrap=True
            )
        total = size(sum(item.bytes for item in garbage))
        if not garbage:
            console.print("Nothing to clear: a recipe's latest run links to all there is.")
        elif really:
            delete(workspace, garbage)
            console.print(f"Deleted {len(garbage)}, {total}.")
        else:
            console.print(f"{len(garbage)} could go, {total}; nothing was touched. To delete them: gc --delete")


def _flat(value: Any, where: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        flat: dict[str, Any] = {}
        for key, item in value.items():
            flat |= _flat(item, f"{where}.{key}" if where else key)
        return flat
    return {where: value} if where else {}


def _facts(console: Console, facts: Mapping[str, str]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, Text(value))
    console.print(table)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    written = sys.argv[1:] if arguments is None else arguments
    given = parser().parse_args([f"--{a}" if a.startswith("workspace=") else a for a in written])  # as a run takes it
    console = Console(highlight=False)
    workspace = given.workspace.expanduser().absolute()
    try:
        if not (workspace / "store").is_dir():
            raise ValueError(f"{workspace} has no store; give --workspace PATH, the folder that runs went to")
        store = Store(workspace)
        if given.command == "list":
            show_list(console, workspace, store)
        elif given.command == "why":
            show_why(console, workspace, store, given.result)
        elif given.command == "diff":
            show_diff(console, workspace, store, given.a, given.b)
        else:
            show_garbage(console, workspace, given.delete)
    except (ValueError, NewerStore, Refused, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

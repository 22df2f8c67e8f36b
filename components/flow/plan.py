"""What would run, and why: decided from keys and manifests alone, without Ray, torch or MLflow."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from components.flow.identity import Identity, arranged, differences, identity_of
from components.flow.node import Graph, Node
from components.flow.store import Manifest, Store

Status = Literal["reused", "run", "continue", "not needed"]
Reuse = Literal["config", "none"]


@dataclass(frozen=True)
class NodePlan:
    """One node's fate."""

    node: Node[Any]
    identity: Identity
    recipe_key: str
    status: Status
    reason: str
    manifest: Manifest | None = None
    """Of the result to reuse."""
    anew: bool = False
    """Made again even if the same inputs gave a result before."""


@dataclass(frozen=True)
class Plan:
    """Every node's fate, inputs first."""

    nodes: tuple[NodePlan, ...]
    problems: tuple[str, ...] = field(default=())
    """What must be mended before this plan can run."""

    def to_run(self) -> tuple[NodePlan, ...]:
        return tuple(n for n in self.nodes if n.status in ("run", "continue"))


def make_plan(graph: Graph, store: Store, reuse: Reuse = "config", only: Iterable[str] = ()) -> Plan:
    """Plan a graph against a store.

    `only`: names of stages or nodes; nothing else may run, and ValueError says so when something else would
    have to; with `reuse` none it is these that are made anew. A node is reused when its content key is committed,
    or, when an input is not at hand, when its recipe key led to a committed result before.
    """
    identities = {n.name: identity_of(n) for n in graph.nodes}
    recipe_keys: dict[str, str] = {}
    found: dict[str, Manifest] = {}
    content_keys: dict[str, str] = {}
    anew: dict[str, bool] = {}
    chosen = set(only)
    for node in graph.nodes:
        recipe_keys[node.name] = identities[node.name].key(arranged(node, recipe_keys))
        inputs = node.flat_inputs()
        if all(i.name in found for i in inputs):
            digests = {i.name: str(found[i.name].artifact["digest"]) for i in inputs}
            content_keys[node.name] = identities[node.name].key(arranged(node, digests))
            manifest = store.find(node.stage.name, content_keys[node.name])
        else:
            manifest = store.find_by_recipe(recipe_keys[node.name])
        anew[node.name] = reuse == "none" and (not chosen or bool({node.name, node.stage.name} & chosen))
        if manifest is not None and not anew[node.name]:
            found[node.name] = manifest

    needed = _needed(graph, found)
    plans = []
    for node in graph.nodes:
        identity = identities[node.name]
        manifest = found.get(node.name)
        status: Status
        if manifest is not None:
            status, reason = "reused", f"made {_when(manifest)}"
        elif node.name not in needed:
            status, reason = "not needed", "what needs it is reused"
        else:
            partial = store.committed_work(node.stage.name, content_keys.get(node.name, "-"))
            if partial and partial[0] and not anew[node.name] and node.stage.resumable:
                status, reason = "continue", f"from {partial[0]} of {partial[1]}"
            else:
                status, reason = "run", _why(node, identity, store, found, anew[node.name])
        plans.append(NodePlan(node, identity, recipe_keys[node.name], status, reason, manifest, anew[node.name]))
    _refuse_others(plans, chosen)
    problems = [p for n in plans if n.status in ("run", "continue") for p in _problems(n.node)]
    return Plan(tuple(plans), tuple(dict.fromkeys(problems)))


def _needed(graph: Graph, found: Mapping[str, Manifest]) -> set[str]:
    """Nodes that must run: the goals without a result, and what those read, without a result, in turn."""
    read = {i.name for n in graph.nodes for i in n.flat_inputs()}
    needed = {n.name for n in graph.nodes if n.name not in read and n.name not in found}
    for node in reversed(graph.nodes):
        if node.name in needed:
            needed |= {i.name for i in node.flat_inputs() if i.name not in found}
    return needed


def _why(node: Node[Any], identity: Identity, store: Store, found: Mapping[str, Manifest], anew: bool) -> str:
    if anew:
        return "reuse=none"
    earlier = [m for m in store.manifests(node.stage.name) if m.name == node.name]
    if not earlier:
        return "never run in this workspace"
    last = max(earlier, key=lambda m: m.started)
    now = {"version": identity.version, "machine": identity.machine, "external": identity.external}
    old = {key: last.identity.get(key) for key in now}
    changed = differences(last.identity["config"], identity.config) + differences(old, now)
    waiting = [i.name for i in node.flat_inputs() if i.name not in found]
    if waiting:
        changed.append(f"depends on {', '.join(waiting)}")
    else:
        digests = {i["name"]: i["digest"] for i in last.inputs}
        changed += [
            f"{i.name} changed" for i in node.flat_inputs() if digests.get(i.name) != found[i.name].artifact["digest"]
        ]
    if not changed:
        return "its result is gone"
    return "; ".join(changed[:4]) + (f"; and {len(changed) - 4} more" if len(changed) > 4 else "")


def _when(manifest: Manifest) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(manifest.started))


def _refuse_others(plans: Iterable[NodePlan], only: set[str]) -> None:
    if not only:
        return
    others = [
        p.node.name for p in plans if p.status in ("run", "continue") and not {p.node.name, p.node.stage.name} & only
    ]
    if others:
        raise ValueError(
            f"only={sorted(only)} needs {', '.join(others)}, which would have to run first: leave `only` away, "
            "or use until=NAME"
        )


def _problems(node: Node[Any]) -> list[str]:
    return node.stage.problems(node.config) if node.stage.problems else []


def select(graph: Graph, only: Iterable[str] = (), until: str | None = None) -> Graph:
    """The part of a graph up to the nodes or stages named. ValueError lists the names there are."""
    wanted = set(only) | ({until} if until else set())
    if not wanted:
        return graph
    names = {n.name for n in graph.nodes} | {n.stage.name for n in graph.nodes}
    unknown = wanted - names
    if unknown:
        raise ValueError(f"no stage is called {', '.join(sorted(unknown))}; there are {', '.join(sorted(names))}")
    return Graph.of(*(n for n in graph.nodes if {n.name, n.stage.name} & wanted))

"""What would run, why, and what it would cost: decided from keys and manifests alone, without Ray, torch or MLflow."""

import difflib
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from components.flow.cost import Capacity, Cost, Outlook
from components.flow.identity import Identity, arranged, differences, identity_of
from components.flow.node import Graph, Node
from components.flow.source import Source, changed_files, source_of
from components.flow.store import Manifest, Store

Status = Literal["reused", "run", "continue", "not needed"]
Reuse = Literal["source", "config", "none"]


@dataclass(frozen=True)
class NodePlan:
    """One node's fate."""

    node: Node[Any]
    identity: Identity
    recipe_key: str
    source: Source
    status: Status
    reason: str
    manifest: Manifest | None = None
    """Of the result to reuse."""
    anew: bool = False
    """Made again even if the same inputs gave a result before."""
    cost: Cost | None = None
    """Of making it; None where the stage does not say."""
    known: Mapping[str, Any] = field(default_factory=dict)
    """Fields of its artifact, as far as they are known."""


@dataclass(frozen=True)
class Plan:
    """Every node's fate, inputs first."""

    nodes: tuple[NodePlan, ...]
    reuse: Reuse = "source"
    problems: tuple[str, ...] = field(default=())
    """What must be mended before this plan can run."""

    def to_run(self) -> tuple[NodePlan, ...]:
        return tuple(n for n in self.nodes if n.status in ("run", "continue"))


def make_plan(
    graph: Graph,
    store: Store,
    reuse: Reuse = "source",
    only: Iterable[str] = (),
    made: Collection[str] = (),
    capacity: Capacity | None = None,
) -> Plan:
    """Plan a graph against a store.

    `only`: names of stages or nodes; nothing else may run, and ValueError says so when something else would
    have to; with `reuse` none it is these that are made anew. A node is reused when its content key is committed,
    or, when an input is not at hand, when its recipe key led to a committed result before; with `reuse` source
    the code that made it must be today's, too. `made`: recipe keys that an earlier job of the same invocation
    answered, so that with `reuse` none a sweep makes anew, but once, what its jobs share. `capacity`: where it is to
    run, which what measures time depends on; None: this machine.
    """
    chosen = set(only)
    decisions: dict[str, _Decision] = {}
    for node in graph.nodes:
        decisions[node.name] = _decide(node, identity_of(node, capacity), decisions, store, reuse, chosen, made)
    needed = _needed(graph, {name for name, d in decisions.items() if d.manifest is not None})
    known: dict[str, Any] = {}
    plans = []
    for node in graph.nodes:
        decision = decisions[node.name]
        manifest = decision.manifest
        cost = _cost(node, decision.identity, known)
        known[node.name] = dict(cost.expects) if cost else {}
        status: Status
        if manifest is not None:
            status, reason = "reused", f"made {_when(manifest)}"
            if changed := changed_files(manifest.source, decision.source):
                reason += f"; source changed since: {_list(changed)}"
            known[node.name] |= manifest.artifact
        else:
            status, reason, left = decision.fate(node, store)
            cost = cost.of_part(left) if cost else None
            if node.name not in needed:
                status, reason = "not needed", "what needs it is reused"
        plans.append(
            NodePlan(
                node, decision.identity, decision.recipe_key, decision.source, status, reason, manifest,
                decision.anew, None if manifest else cost, known[node.name],
            )
        )  # fmt: skip
    _refuse_others(plans, chosen)
    problems = [p for n in plans if n.status in ("run", "continue") for p in _problems(n.node)]
    return Plan(tuple(plans), reuse, tuple(dict.fromkeys(problems)))


@dataclass(frozen=True)
class _Decision:
    """What is known of a node when only it and what it reads are looked at."""

    identity: Identity
    recipe_key: str
    content_key: str | None
    """None while an input has yet to be made."""
    source: Source
    anew: bool
    manifest: Manifest | None
    """Of the result to reuse."""
    set_aside: Manifest | None
    """Of a result that other code made."""
    uncertain: bool
    """A result is there or was, and the one to be made may differ: so may all that is made from it."""
    remade: tuple[str, ...]
    """Inputs that will be made."""
    inputs: Mapping[str, str]
    """Digests of the inputs that are there."""

    def fate(self, node: Node[Any], store: Store) -> tuple[Status, str, float]:
        """Of a node that is not reused: whether it goes on from partial work, why it runs, and what part is to do."""
        partial = store.committed_work(node.stage.name, self.content_key) if self.content_key else None
        if partial and partial[0] and not self.anew and node.stage.resumable and self.content_key:
            reason = f"from {partial[0]} of {partial[1]}"
            history = store.history(node.stage.name, self.content_key)
            if history and (changed := changed_files(history[-1]["source"], self.source)):
                reason += f", begun under other source: {_list(changed)}"
            return "continue", reason, 1 - partial[0] / partial[1]
        return "run", self._why(node, store), 1.0

    def _why(self, node: Node[Any], store: Store) -> str:
        if self.anew:
            return "reuse=none"
        if self.set_aside is not None:
            if self.set_aside.source is None:
                return "made by a version that kept no record of its source"
            return f"source changed: {_list(changed_files(self.set_aside.source, self.source))}"
        earlier = [m for m in store.manifests(node.stage.name) if m.name == node.name]
        if not earlier:
            return "first time"
        last = max(earlier, key=lambda m: m.started)
        now = {
            "version": self.identity.version,
            "machine": self.identity.machine,
            "external": self.identity.external,
        }
        old = {key: last.identity.get(key) for key in now}
        changed = differences(last.identity["config"], self.identity.config) + differences(old, now)
        if self.remade:
            changed.append(f"depends on {', '.join(self.remade)}")
        before = {i["name"]: i["digest"] for i in last.inputs}
        changed += [f"{name} changed" for name, digest in self.inputs.items() if before.get(name) != digest]
        if not changed:
            return "its result is gone"
        return "; ".join(changed[:4]) + (f"; and {len(changed) - 4} more" if len(changed) > 4 else "")


def _decide(
    node: Node[Any],
    identity: Identity,
    decided: Mapping[str, _Decision],
    store: Store,
    reuse: Reuse,
    chosen: set[str],
    made: Collection[str],
) -> _Decision:
    inputs = {i.name: decided[i.name] for i in node.flat_inputs()}
    recipe_key = identity.key(arranged(node, {name: d.recipe_key for name, d in inputs.items()}))
    digests = {name: str(d.manifest.artifact["digest"]) for name, d in inputs.items() if d.manifest is not None}
    source = source_of(node.stage.function)
    asked = reuse == "none" and (not chosen or bool({node.name, node.stage.name} & chosen))
    anew = asked and recipe_key not in made
    content_key = None
    if len(digests) == len(inputs):
        content_key = identity.key(arranged(node, digests))
        manifest = store.find(node.stage.name, content_key)
    elif any(d.uncertain for d in inputs.values()):
        manifest = None  # what it reads is made again, and may come out otherwise
    else:
        manifest = store.find_by_recipe(recipe_key)
    set_aside = None
    if manifest is not None and reuse == "source" and changed_files(manifest.source, source):
        manifest, set_aside = None, manifest
    remade = tuple(name for name in inputs if name not in digests)
    uncertain = anew or set_aside is not None or (manifest is None and any(d.uncertain for d in inputs.values()))
    return _Decision(
        identity,
        recipe_key,
        content_key,
        source,
        anew,
        None if anew else manifest,
        set_aside,
        uncertain,
        remade,
        digests,
    )


def _needed(graph: Graph, found: set[str]) -> set[str]:
    """Nodes that must run: the goals without a result, and what those read, without a result, in turn."""
    read = {i.name for n in graph.nodes for i in n.flat_inputs()}
    needed = {n.name for n in graph.nodes if n.name not in read and n.name not in found}
    for node in reversed(graph.nodes):
        if node.name in needed:
            needed |= {i.name for i in node.flat_inputs() if i.name not in found}
    return needed


def _cost(node: Node[Any], identity: Identity, known: Mapping[str, Any]) -> Cost | None:
    if node.stage.cost is None:
        return None
    return node.stage.cost(
        Outlook(node.config, tuple(arranged(node, known)), node.execution, identity.external, node.resources.gpus)
    )


def _list(files: list[str], most: int = 2) -> str:
    rest = len(files) - most
    return ", ".join(files[:most]) + (f" and {rest} more" if rest > 0 else "")


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
    check: Callable[[Any, Any], list[str]] | None = node.stage.problems
    return check(node.config, node.execution) if check else []


def select(graph: Graph, only: Iterable[str] = (), until: str | None = None) -> Graph:
    """The part of a graph up to the nodes or stages named. ValueError lists the names there are."""
    wanted = set(only) | ({until} if until else set())
    if not wanted:
        return graph
    names = {n.name for n in graph.nodes} | {n.stage.name for n in graph.nodes}
    unknown = wanted - names
    if unknown:
        near = [name for word in sorted(unknown) for name in difflib.get_close_matches(word, names, 2, 0.6)]
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(f"no stage is called {', '.join(sorted(unknown))}; {hint}there are {', '.join(sorted(names))}")
    return Graph.of(*(n for n in graph.nodes if {n.name, n.stage.name} & wanted))

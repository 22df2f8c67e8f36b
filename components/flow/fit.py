"""Whether what must run fits what there is, and the smallest change that would make it fit."""

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.flow.admission import shortages
from components.flow.cluster import Cluster
from components.flow.cost import Capacity, Cost, Outlook
from components.flow.disk import nearest
from components.flow.identity import arranged
from components.flow.plan import NodePlan, Plan
from components.flow.quantity import size


def blockers(plan: Plan, capacity: Capacity) -> list[str]:
    """All that keeps a plan from being run: problems of its stages, and what is short."""
    cores = capacity.nodes * capacity.cpus
    there = Cluster(cores, capacity.cpus, capacity.all_gpus, None, capacity.here)
    return [*plan.problems, *shortages(plan.to_run(), there), *misfits(plan, capacity)]


def found(declared: Capacity, cluster: Cluster) -> tuple[Capacity, list[str]]:
    """What a cluster that answers really has, in place of what was declared, and what of that is worth a word."""
    words = []
    kind = declared.gpu.name
    if cluster.gpu_kinds and not any(kind.upper() in name.upper() for name in cluster.gpu_kinds):
        words.append(f"the plan reckoned with {kind}, the cluster has {', '.join(cluster.gpu_kinds)}: give gpu=…")
    there = replace(
        declared,
        nodes=cluster.nodes,
        cpus=int(cluster.largest_node_cpus),
        gpus=cluster.node_gpus,
        memory_bytes=cluster.node_memory_bytes or declared.memory_bytes,
        here=cluster.local,
        gpus_in_all=int(cluster.gpus),
    )
    return there, words


def disk_shortage(plan: Plan, workspace: Path) -> list[str]:
    """Whether the disk of a workspace, which need not exist yet, has room for what will be written."""
    costs = [row.cost for row in plan.to_run() if row.cost is not None]
    if not costs:
        return []
    needed = sum(c.disk_bytes or 0 for c in costs) + scratch_bytes(plan)
    free = shutil.disk_usage(nearest(workspace)).free
    if needed <= free:
        return []
    return [
        f"workspace={workspace} has {size(free)} of disk free; what is to run needs about {size(needed)}: make room "
        "(pipelines/store.py gc shows what could go) or give another workspace"
    ]


def scratch_bytes(plan: Plan) -> float:
    """The most that stages take on disk beside their results while they run: of one stage as many nodes as run side
    by side."""
    by_stage: dict[str, list[float]] = {}
    for row in plan.to_run():
        if row.cost is not None:
            by_stage.setdefault(row.node.stage.name, []).append(row.cost.scratch_bytes)
    holds = {row.node.stage.name: row.node.resources for row in plan.nodes}
    beside = {name: 1 if held.gpus else round(1 / held.share) for name, held in holds.items()}
    return max((sum(sorted(sizes)[-beside[name] :]) for name, sizes in by_stage.items()), default=0.0)


def misfits(plan: Plan, capacity: Capacity) -> list[str]:
    """Stages that need more memory or devices than there are; a sentence each, with the mend."""
    by_stage: dict[str, list[NodePlan]] = {}
    for row in plan.to_run():
        if row.cost is not None and row.cost.memory and not capacity.fits(row.cost):
            by_stage.setdefault(row.node.stage.name, []).append(row)
    return [_sentence(plan, rows, capacity) for rows in by_stage.values()]


def _sentence(plan: Plan, rows: list[NodePlan], capacity: Capacity) -> str:
    """What the nodes of one stage lack together, told of the one that needs most."""
    worst = max(rows, key=lambda row: row.cost.memory_bytes if row.cost else 0)
    assert worst.cost is not None
    who = ", ".join(row.node.title for row in rows) + (" need" if len(rows) > 1 else " needs")
    if capacity.lacks_devices(worst.cost):
        return f"{who} {_lacks_devices(plan, worst, worst.cost, capacity)}"
    most = "up to " if len({row.cost.memory_bytes for row in rows if row.cost}) > 1 else ""
    return f"{who} {most}{_lacks_memory(plan, worst, worst.cost, capacity)}"


def _lacks_devices(plan: Plan, row: NodePlan, cost: Cost, capacity: Capacity) -> str:
    there = f"{'this machine' if capacity.here else 'the cluster'} has {capacity.all_gpus or 'none'}"
    mend = "give cluster.address=HOST:PORT of a cluster that has them" if capacity.here else "add nodes"
    if fitting := _first(plan, row, capacity):
        mend += f", or {fitting[0]} would fit"
    elif least := _fewest(plan, row, capacity):
        mend += f"; {least[1]} {capacity.gpu.name} would hold it with {least[0]}"
        stage = row.node.stage
        if stage.problems and stage.problems(row.node.config, row.node.execution):
            mend += ", once the rest is mended"
    return f"{cost.workers} GPU{'s' * (cost.workers > 1)}; {there}: {mend}"


def _lacks_memory(plan: Plan, row: NodePlan, cost: Cost, capacity: Capacity) -> str:
    parts = ", ".join(f"{name} {size(part)}" for name, part in cost.memory.items())
    place = "this machine" if capacity.here else "the cluster"
    holder = f"each {capacity.gpu.name} has" if cost.on_gpu else f"{place} has for each"
    mend = "no change of how it is run makes it fit: take a smaller model or larger devices"
    if fitting := _first(plan, row, capacity):
        mend = f"the smallest change that fits is {fitting[0]} ({size(fitting[1].memory_bytes)})"
    elif planned := _first(plan, row, capacity, refused=True):
        words, there = planned
        mend = f"{words} would fit ({size(there.memory_bytes)}), but a run refuses it; else take a smaller model"
    have = f"{holder} {size(capacity.room(cost) or 0)}"
    return f"{size(cost.memory_bytes)} of memory for each worker ({parts}); {have}: {mend}"


def _variants(plan: Plan, row: NodePlan, refused: bool = False) -> Iterable[tuple[str, Cost]]:
    """Other ways to run a node, with what each would cost; `refused`: those too that the stage has a problem with."""
    stage, node = row.node.stage, row.node
    if stage.changes is None or stage.cost is None or node.execution is None:
        return
    known = {p.node.name: p.known for p in plan.nodes}
    inputs: tuple[Any, ...] = tuple(arranged(node, known))
    known_problems = set(stage.problems(node.config, node.execution)) if stage.problems else set()
    for words, execution in stage.changes(node.execution):
        if not refused and stage.problems and set(stage.problems(node.config, execution)) - known_problems:
            continue
        yield words, stage.cost(Outlook(node.config, inputs, execution, row.identity.external, node.resources.gpus))


def _first(plan: Plan, row: NodePlan, capacity: Capacity, refused: bool = False) -> tuple[str, Cost] | None:
    return next(((words, cost) for words, cost in _variants(plan, row, refused) if capacity.fits(cost)), None)


def _fewest(plan: Plan, row: NodePlan, capacity: Capacity) -> tuple[str, int] | None:
    """The way that needs the fewest devices, each with room enough, however many there are."""
    holding = [
        (cost.workers, order, words)
        for order, (words, cost) in enumerate(_variants(plan, row))
        if cost.memory_bytes <= (capacity.room(cost) or cost.memory_bytes)
    ]
    if not holding:
        return None
    workers, _, words = min(holding)
    return words, workers

"""What may run now: ready nodes that fit beside what runs, counted by the cores, GPUs and main memory they need."""

from collections.abc import Container, Iterable
from typing import Any

from components.flow.cluster import Cluster
from components.flow.node import Node
from components.flow.plan import NodePlan


def admissible(
    waiting: Iterable[NodePlan], running: Iterable[NodePlan], ready: Container[str], cluster: Cluster
) -> list[NodePlan]:
    """Waiting nodes to start beside `running`, in the order of the graph. `ready` names the nodes with a result.

    One node always fits an idle cluster; a node that runs alone waits for an idle one.
    """
    beside = list(running)
    chosen: list[NodePlan] = []
    for plan in waiting:
        node = plan.node
        if any(i.name not in ready for i in node.flat_inputs()):
            continue
        together = [*beside, plan]
        fits = (
            sum(cpus_of(other.node, cluster) for other in together) <= cluster.cpus
            and sum(other.node.resources.gpus for other in together) <= cluster.gpus
            and sum(map(_memory_of, together)) <= (cluster.memory_bytes or float("inf"))
        )
        alone = any(other.node.resources.alone for other in together)
        if not beside or (fits and not alone):
            chosen.append(plan)
            beside.append(plan)
    return chosen


def _memory_of(plan: NodePlan) -> int:
    """Main memory that a node's workers hold at their peak, as far as its stage says."""
    return 0 if plan.cost is None or plan.cost.on_gpu else plan.cost.workers * plan.cost.memory_bytes


def cpus_of(node: Node[Any], cluster: Cluster) -> float:
    """CPU cores that a node occupies, whole ones; a stage that is one task cannot have more than one machine's."""
    need = node.resources
    if need.cpus is not None:
        return need.cpus
    cores = cluster.cpus if need.drives_ray else cluster.largest_node_cpus
    return max(1, need.at_least_cpus, cores * need.share // 1)


def shortages(plans: Iterable[NodePlan], cluster: Cluster) -> list[str]:
    """What the cluster, or this machine, is short of; a sentence per need, naming the stages that have it."""
    where = "this machine has" if cluster.local else "the cluster has"
    short: dict[str, list[str]] = {}
    for plan in plans:
        need = plan.node.resources
        cpus = need.cpus or need.at_least_cpus
        if cpus > cluster.cpus and need.gpus <= cluster.gpus:
            short.setdefault(f"{cpus:g} CPU cores; {where} {cluster.cpus:g}", []).append(plan.node.title)
        if need.gpus > cluster.gpus and not (plan.cost and plan.cost.on_gpu):  # see fit.misfits
            short.setdefault(f"{need.gpus:g} GPUs; {where} {cluster.gpus:g}", []).append(plan.node.title)
    advice = "join a cluster with cluster.address=HOST:PORT, or ask for less (cluster.training.workers=…)"
    return [f"{', '.join(titles)} needs {need}: {advice}" for need, titles in short.items()]

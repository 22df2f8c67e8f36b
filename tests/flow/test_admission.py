"""What may run side by side, and what may not."""

import dataclasses
from pathlib import Path

from toy_pipeline import Count, Scale, Source, count, scale, source, total

from components.flow.admission import admissible, cpus_of, shortages
from components.flow.cluster import Cluster
from components.flow.cost import Cost
from components.flow.node import Graph, Resources, several
from components.flow.plan import NodePlan, make_plan
from components.flow.store import Store

TWO_CORES = Cluster(cpus=2, largest_node_cpus=2, gpus=0, dashboard=None, local=True)


def plans(tmp_path: Path, **resources: Resources) -> dict[str, NodePlan]:
    start = source.bind(Source())
    a = scale.bind(Scale(), start, name="a", resources=resources.get("a"))
    b = count.bind(Count(), start, name="b", resources=resources.get("b"))
    goal = total.bind(None, several([a, b]))
    return {p.node.name: p for p in make_plan(Graph.of(goal), Store(tmp_path)).nodes}


def started(plans: dict[str, NodePlan], running: list[NodePlan], ready: set[str]) -> list[str]:
    waiting = [p for n, p in plans.items() if n not in ready and p not in running]
    return [p.node.name for p in admissible(waiting, running, ready, TWO_CORES)]


def test_only_what_has_all_its_inputs_is_ready(tmp_path: Path) -> None:
    found = plans(tmp_path)
    assert started(found, [], set()) == ["source"]
    assert started(found, [found["a"]], {"source"}) == ["b"]
    assert started(found, [], {"source", "a", "b"}) == ["total"]


def test_what_fits_together_runs_together(tmp_path: Path) -> None:
    assert started(plans(tmp_path), [], {"source"}) == ["a", "b"]
    all_cores = plans(tmp_path, a=Resources(cpus=None), b=Resources(cpus=1))
    assert started(all_cores, [], {"source"}) == ["a"]
    assert started(all_cores, [all_cores["a"]], {"source"}) == []


def test_shares_of_the_cores_run_side_by_side(tmp_path: Path) -> None:
    halves = plans(tmp_path, a=Resources(share=0.5), b=Resources(share=0.5, drives_ray=True))
    assert started(halves, [], {"source"}) == ["a", "b"]
    most = plans(tmp_path, a=Resources(share=0.5), b=Resources(share=0.5, at_least_cpus=2, drives_ray=True))
    assert started(most, [], {"source"}) == ["a"]
    assert cpus_of(plans(tmp_path, a=Resources(share=0.1))["a"].node, TWO_CORES) == 1


def test_one_gpu_is_not_given_twice(tmp_path: Path) -> None:
    found = plans(tmp_path, a=Resources(cpus=1, gpus=1), b=Resources(cpus=1, gpus=1))
    one_gpu = dataclasses.replace(TWO_CORES, gpus=1)
    assert [p.node.name for p in admissible([found["a"], found["b"]], [], {"source"}, one_gpu)] == ["a"]


def test_memory_for_one_is_not_given_to_two(tmp_path: Path) -> None:
    halves = plans(tmp_path, a=Resources(share=0.5), b=Resources(share=0.5))
    costs = {"a": Cost(memory={"activations": 9 << 30}), "b": Cost(memory={"parameters": 4 << 30}, workers=2)}
    heavy = [dataclasses.replace(halves[name], cost=cost) for name, cost in costs.items()]
    for gigabytes, wanted in ((8, ["a"]), (16, ["a"]), (17, ["a", "b"]), (None, ["a", "b"])):
        memory = gigabytes and gigabytes << 30
        there = dataclasses.replace(TWO_CORES, node_memory_bytes=memory)
        assert [p.node.name for p in admissible(heavy, [], {"source"}, there)] == wanted
    on_gpu = [dataclasses.replace(p, cost=dataclasses.replace(p.cost or Cost(), on_gpu=True)) for p in heavy]
    assert len(admissible(on_gpu, [], {"source"}, dataclasses.replace(TWO_CORES, node_memory_bytes=1))) == 2


def test_a_measuring_stage_runs_alone(tmp_path: Path) -> None:
    found = plans(tmp_path, a=Resources(cpus=1, alone=True), b=Resources(cpus=1))
    assert started(found, [], {"source"}) == ["a"]
    assert started(found, [found["a"]], {"source"}) == []
    assert started(found, [found["b"]], {"source"}) == []


def test_a_shortage_names_stages_need_and_what_there_is(tmp_path: Path) -> None:
    found = plans(tmp_path, a=Resources(cpus=1, gpus=8), b=Resources(cpus=16))
    said = shortages(found.values(), TWO_CORES)
    assert len(said) == 2
    assert said[0].startswith("a needs 8 GPUs; this machine has 0")
    assert said[1].startswith("b needs 16 CPU cores; this machine has 2")

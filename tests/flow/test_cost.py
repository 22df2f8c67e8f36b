"""Prices: what a device makes of FLOPs and bytes, what fits, and the smallest change that would."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from toy_pipeline import Number, number

from components.flow.cluster import Cluster
from components.flow.cost import Capacity, Cost, Device, Outlook, total
from components.flow.fit import disk_shortage, found, misfits
from components.flow.node import Graph, stage
from components.flow.plan import make_plan
from components.flow.quantity import device_time, scaled, size
from components.flow.stage_run import StageRun
from components.flow.store import Store

GPU = Device("G", 100e12, 10e12, 1e12, 0.5, memory_bytes=100)
CPU = Device("C", 1e12, 1e12, 1e10, 0.5)


@dataclass(frozen=True)
class Work:
    bytes: int = 160


@dataclass(frozen=True)
class How:
    workers: int = 2
    halved: bool = False


def cost_of(at: Outlook) -> Cost:
    how: How = at.execution
    held = at.config.bytes // (2 if how.halved else 1)
    return Cost(flops=1e15, memory={"all": held}, workers=how.workers, on_gpu=True, expects={"seen": held})


def changes_of(how: How) -> Iterator[tuple[str, How]]:
    yield "workers=1", How(1, how.halved)
    yield "halved=true", How(how.workers, True)
    yield "halved=true workers=1", How(1, True)


@stage(version=1, cost=cost_of, changes=changes_of)
def work(config: Work, run: StageRun) -> Number:
    return number(1, run)


@stage(version=1, cost=lambda at: Cost(tokens=at.inputs[0]["seen"]))
def after(config: None, x: Number, run: StageRun) -> Number:
    return x


def capacity(gpus: int, here: bool = False) -> Capacity:
    return Capacity(1, 8, gpus, 1000, GPU, CPU, here)


def said(tmp_path: Path, gpus: int, how: How, n_bytes: int = 160) -> list[str]:
    node = work.bind(Work(n_bytes), execution=how)
    return misfits(make_plan(Graph.of(node), Store(tmp_path)), capacity(gpus))


def test_time_is_the_longer_of_products_and_reading_at_the_stated_utilisation() -> None:
    products = Cost(flops=100e12, precision="bfloat16")
    assert products.device_seconds(GPU) == pytest.approx(2)
    assert Cost(flops=100e12).device_seconds(GPU) == pytest.approx(20)
    assert Cost(flops=1.0, read_bytes=4e12).device_seconds(GPU) == pytest.approx(8)
    assert Cost(core_seconds=7).device_seconds(CPU) == 7
    assert Cost().device_seconds(CPU) is None


def test_sums_leave_out_what_is_not_known() -> None:
    both = total([Cost(flops=1e3, disk_bytes=5), Cost(tokens=7)])
    assert (both.flops, both.disk_bytes, both.tokens) == (1e3, 5, 7)


def test_what_one_stage_expects_prices_the_next(tmp_path: Path) -> None:
    goal = after.bind(None, work.bind(Work(8), execution=How()))
    plan = make_plan(Graph.of(goal), Store(tmp_path))
    assert plan.nodes[1].cost is not None
    assert plan.nodes[1].cost.tokens == 8


def test_what_fits_is_not_spoken_of(tmp_path: Path) -> None:
    assert said(tmp_path, 2, How(), 100) == []


def test_too_little_memory_names_parts_room_and_the_smallest_change(tmp_path: Path) -> None:
    (sentence,) = said(tmp_path, 2, How())
    assert sentence == (
        "work needs 160 B of memory for each worker (all 160 B); each G has 100 B: "
        "the smallest change that fits is halved=true (80 B)"
    )
    (hopeless,) = said(tmp_path, 2, How(), 1000)
    assert "no change of how it is run makes it fit" in hopeless


def test_too_few_devices_name_a_way_that_fits_or_the_fewest_that_would_hold_it(tmp_path: Path) -> None:
    (sentence,) = said(tmp_path, 1, How())
    assert "needs 2 GPUs; the cluster has 1" in sentence
    assert "halved=true workers=1 would fit" in sentence
    (sentence,) = said(tmp_path, 0, How())
    assert "the cluster has none" in sentence
    assert "1 G would hold it with halved=true workers=1" in sentence


def test_processes_share_the_memory_of_their_node() -> None:
    four = Cost(memory={"all": 300}, workers=4)
    assert not capacity(0).fits(four)
    assert Capacity(2, 8, 0, 1000, GPU, CPU, here=False).fits(four)


def test_a_disk_too_small_is_said_with_both_figures(tmp_path: Path) -> None:
    large = stage(version=1, name="large", cost=lambda at: Cost(disk_bytes=1e18))(work.function)  # type: ignore[attr-defined]
    plan = make_plan(Graph.of(large.bind(Work())), Store(tmp_path))
    (sentence,) = disk_shortage(plan, tmp_path / "not" / "there")
    assert "needs about 1e+03 PB" in sentence
    assert disk_shortage(make_plan(Graph.of(work.bind(Work(), execution=How())), Store(tmp_path)), tmp_path) == []


def test_quantities_are_read_as_people_write_them() -> None:
    assert [scaled(x) for x in (209_715_200_000, 13_015_864_320, 1234, 7)] == ["209.7 B", "13.02 B", "1.234 k", "7"]
    assert [size(x) for x in (52_063_457_280, 999, 1.5e12)] == ["52.1 GB", "999 B", "1.5 TB"]
    assert [device_time(s, "core") for s in (30, 600, 7200)] == ["30 core-seconds", "10 core-minutes", "2 core-hours"]


def test_a_cluster_that_answers_counts_as_it_is_and_not_as_declared(tmp_path: Path) -> None:
    declared = Capacity(8, 96, 8, 1000, GPU, CPU, here=False)
    answers = Cluster(16, 8, 1, None, False, nodes=1, node_gpus=1, node_memory_bytes=50, gpu_kinds=("A100",))
    there, words = found(declared, answers)
    assert (there.nodes, there.cpus, there.gpus, there.memory_bytes) == (1, 8, 1, 50)
    assert words == ["the plan reckoned with G, the cluster has A100: give gpu=…"]
    plan = make_plan(Graph.of(work.bind(Work(80), execution=How())), Store(tmp_path))
    assert misfits(plan, declared) == []
    assert "needs 2 GPUs; the cluster has 1" in misfits(plan, there)[0]


def test_a_device_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"bfloat16_flops is 0(.|\n)*utilisation is 2") as error:
        Device("x", 0, 1, 1, 2)
    assert len(str(error.value).splitlines()) == 2

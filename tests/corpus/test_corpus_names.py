"""What a person reads in Ray's dashboard, and in `ps`, of the inner work of a stage."""

from pathlib import Path
from typing import Any

import pytest

from components.corpus.blocks import on_ray_data


@pytest.mark.ray
@pytest.mark.usefixtures("ray_local")
def test_tasks_are_named_after_the_node_and_what_they_do() -> None:
    import ray

    def own_title(block: Any) -> Any:
        return Path("/proc/self/cmdline").read_bytes().decode().strip("\0")

    @ray.remote(num_cpus=0)
    def stage() -> list[Any]:
        return list(on_ray_data(own_title, [1, 2]))

    assert ray.get(stage.options(name="shards").remote()) == [
        "ray::FlatMap(shards: own title)",
        "ray::FlatMap(shards: own title)",
    ]
    assert list(on_ray_data(own_title, [1])) == ["ray::FlatMap(own title)"]

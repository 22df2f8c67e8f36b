"""What tests of several rooms share."""

import os
import shutil
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.artifacts import Corpus
from components.flow.cluster import environment

# must stand in the environment before anything imports Ray
for _name, _value in environment(True).items():
    os.environ.setdefault(_name, _value)
os.environ.pop("RAY_ADDRESS", None)
os.environ.setdefault("FAULTS_SEED", str(time.time_ns() % 10_000))  # one for all processes that run tests
if "PYTEST_XDIST_WORKER" in os.environ:  # a thread each: waiting threads of one would take the other's core
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked `faults` take half an hour: but for those marked `faults(always=True)`, they run only where -m names
    them."""
    if "faults" in config.option.markexpr:
        return
    marks = {item: item.get_closest_marker("faults") for item in items}
    left_out = [item for item, mark in marks.items() if mark and not mark.kwargs.get("always")]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """One Ray for all tests that need it: two cores, loopback, silent."""
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=256 << 20,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def python_sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with real code: the modules and small packages of the standard library that begin with a to d."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    folder = tmp_path_factory.mktemp("sources")
    for path in sorted(stdlib.glob("[a-d]*")):
        if path.suffix == ".py":
            shutil.copy(path, folder / path.name)
        elif path.name in ("asyncio", "collections", "concurrent", "ctypes", "curses", "dbm"):
            shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__", "test*"))
    return folder


@pytest.fixture(scope="session")
def small_corpus(python_sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A corpus of about 2 MB of real code, made without Ray."""
    from components.corpus.blocks import in_process
    from components.corpus.collect import collect_corpus
    from components.corpus.config import CorpusConfig

    directory = tmp_path_factory.mktemp("corpus")
    config = CorpusConfig(source="files", path=str(python_sources))
    result = collect_corpus(config, directory, in_process, lambda done, total, text: None)
    return Corpus(directory, result.digest, result.documents, result.text_bytes, result.dropped)

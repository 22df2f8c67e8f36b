"""The run that the disturbed ones are held against."""

import shutil
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fault_runs import TWO_WORKERS, Driver, Pipeline, clear


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty small modules of the standard library."""
    folder = tmp_path_factory.mktemp("sources")
    modules = (path for path in Path(sysconfig.get_path("stdlib")).glob("*.py") if path.stat().st_size < 20_000)
    for path in sorted(modules)[:60]:
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="session")
def timed(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Pipeline, list[float]]:
    """A run that nobody disturbed, and the seconds to each of its turns."""
    folder = tmp_path_factory.mktemp("undisturbed")
    pipeline = Pipeline(folder / "runs", sources, folder / "logs")
    return pipeline, pipeline.timed()


@pytest.fixture(scope="session")
def undisturbed(timed: tuple[Pipeline, list[float]]) -> Pipeline:
    """A run that nobody disturbed."""
    return timed[0]


@pytest.fixture(scope="session")
def undisturbed_pair(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """The same for two workers, up to their model."""
    folder = tmp_path_factory.mktemp("undisturbed-pair")
    pipeline = Pipeline(folder / "runs", sources, folder / "logs", TWO_WORKERS)
    pipeline.finish()
    return pipeline


@pytest.fixture
def pipeline(sources: Path, tmp_path: Path) -> Pipeline:
    """To be disturbed."""
    return Pipeline(tmp_path / "runs", sources, tmp_path / "logs")


@pytest.fixture
def watch() -> Iterator[Callable[[Driver], Driver]]:
    """Whatever becomes of the test, what a driver started ends with it."""
    drivers: list[Driver] = []

    def remember(driver: Driver) -> Driver:
        drivers.append(driver)
        return driver

    yield remember
    clear(*drivers)

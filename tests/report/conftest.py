"""A sample run for every test that wants one."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sample_run import Sample, build_sample


@pytest.fixture
def sample(tmp_path: Path) -> Callable[..., Sample]:
    """Build a sample run in the test's own folder."""
    return lambda **options: build_sample(tmp_path / "run", **options)

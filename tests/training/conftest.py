"""One thread is fastest for the small models here, and leaves the other cores to other tests."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)

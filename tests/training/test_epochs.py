"""A corpus that is seen several times (paper section 3.5): reshuffled each time, gone on with at any step, and by any
number of workers."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_training import CONFIG, EXECUTION, killed_at, metrics_of, open_shards, write_shards
from two_workers import Tiny, train_together

from components.flow.stage_run import StageRun
from components.shards.reader import TokenReader
from components.training.stage import _windows, pretrain

WINDOWS = 44
"""Of 32 tokens in 1,500, of which 64 are kept free at the end; 8 a step: 20 steps see them 3.6 times."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_shards(folder / "shards", n_tokens=1500)
    return folder


def test_each_epoch_of_a_training_reads_everything_once_in_an_order_of_its_own(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    window = TokenReader.window
    monkeypatch.setattr(
        TokenReader, "window", lambda self, start, length: (read.append(start), window(self, start, length))[1]
    )
    pretrain(CONFIG, open_shards(home / "shards"), StageRun.local(tmp_path, EXECUTION))
    assert len(read) == 20 * 8
    epochs = [read[first : first + WINDOWS] for first in range(0, 3 * WINDOWS, WINDOWS)]
    assert all(sorted(epoch) == list(range(0, WINDOWS * 32, 32)) for epoch in epochs)
    assert all(a != b for i, a in enumerate(epochs) for b in epochs[:i])


def test_killed_in_the_second_epoch_it_goes_on_bit_for_bit(home: Path, tmp_path: Path) -> None:
    """Killed after step 8, it goes on after step 6; the first epoch ended within that."""
    execution = replace(EXECUTION, checkpoint_every=3)
    undisturbed = StageRun.local(tmp_path / "undisturbed", execution)
    expected = pretrain(CONFIG, open_shards(home / "shards"), undisturbed)
    (tmp_path / "shards").symlink_to(home / "shards")
    killed_at("data", 8, tmp_path, checkpoint_every=3)
    run = StageRun.local(tmp_path / "run", execution)
    assert sorted(path.name for path in (run.work / "checkpoints").iterdir()) == ["step-000003", "step-000006"]
    assert pretrain(CONFIG, open_shards(home / "shards"), run).digest == expected.digest
    assert metrics_of(run) == metrics_of(undisturbed)


def test_two_workers_see_the_global_batches_that_one_sees(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the ends of epochs: their shares, put together, and what they learn."""
    whole = _windows(home / "shards", CONFIG, torch.device("cpu"))
    for step in range(20):
        tokens_GT, targets_KGT = whole.batch(step)
        shares = []
        for rank in (0, 1):
            with monkeypatch.context() as patch:
                patch.setattr("components.training.parallel.rank_and_workers", lambda rank=rank: (rank, 2))
                shares.append(whole.batch(step))
        assert torch.equal(torch.cat([tokens for tokens, _ in shares]), tokens_GT)
        assert torch.equal(torch.cat([targets for _, targets in shares], dim=1), targets_KGT)
    (alone,) = train_together([Tiny(CONFIG, EXECUTION, home / "shards", tmp_path / "alone")], 1)
    two = replace(EXECUTION, workers=2)
    (together,) = train_together([Tiny(CONFIG, two, home / "shards", tmp_path / "together")])
    for ours, theirs in zip(metrics_of(together), metrics_of(alone), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)

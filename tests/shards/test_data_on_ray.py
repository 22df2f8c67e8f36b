"""The data stages on Ray Data: the same bytes as in one process, for any number of workers, and nothing said."""

import filecmp
from pathlib import Path

import pytest

from components.artifacts import Corpus
from components.corpus.blocks import MOST_BLOCKS, BlockError, on_ray_data, task_sizes
from components.corpus.config import CorpusConfig
from components.corpus.stage import collect
from components.corpus.write import write_part
from components.flow.stage_run import StageRun
from components.shards.config import DataExecution, ShardsConfig
from components.shards.pack import tokenize_block
from components.shards.stage import tokenize
from components.tokenizer.config import TokenizerConfig
from components.tokenizer.stage import train_tokenizer


@pytest.mark.ray
@pytest.mark.usefixtures("ray_local")
def test_the_same_bytes_for_any_number_of_workers_and_a_quiet_terminal(
    small_corpus: Corpus, python_sources: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = CorpusConfig(source="files", path=str(python_sources))
    corpus = collect(config, StageRun.local(tmp_path / "corpus", cpus=2))
    assert corpus.digest == small_corpus.digest
    assert (corpus.documents, corpus.dropped) == (small_corpus.documents, small_corpus.dropped)

    bytes_config = TokenizerConfig(kind="bytes", vocabulary_size=None)
    tokenizer = train_tokenizer(bytes_config, corpus, StageRun.local(tmp_path / "tokenizer"))
    results = []
    for name, execution in (("default", None), ("one", DataExecution(1)), ("three", DataExecution(3))):
        run = StageRun.local(tmp_path / name, execution, cpus=2)
        results.append(tokenize(ShardsConfig(shard_tokens=200_000), corpus, tokenizer, run))
    assert len({result.digest for result in results}) == 1
    first = results[0].path
    names = [str(p.relative_to(first)) for p in first.rglob("*") if p.is_file() and p.name != "progress.json"]
    for other in results[1:]:
        assert filecmp.cmpfiles(first, other.path, names, shallow=False) == (names, [], [])

    out, err = capfd.readouterr()
    assert out == ""
    assert err == ""


@pytest.mark.ray
@pytest.mark.usefixtures("ray_local")
def test_what_fails_on_a_worker_says_why_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(BlockError) as error:
        list(on_ray_data(write_part, [{"directory": str(tmp_path)}]))
    assert str(error.value) == "KeyError: 'file'"
    assert "in write_part" in str(error.value.__cause__)
    with pytest.raises(BlockError, match="holds no tokenizer"):
        list(on_ray_data(tokenize_block, [{"tokenizer": str(tmp_path)}]))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_local")
def test_blocks_after_one_that_failed_in_its_task_are_left(tmp_path: Path) -> None:
    def touch(block: str) -> str:
        if block.startswith("bad"):
            raise ValueError(f"{block} has no end")
        (tmp_path / block).touch()
        return block

    names = [f"{number:02d}" for number in range(40)]
    assert sorted(on_ray_data(touch, names, workers=1)) == names
    assert sorted(file.name for file in tmp_path.iterdir()) == names
    with pytest.raises(BlockError, match="bad one has no end"):
        list(on_ray_data(touch, ["a", "bad one", "after it", *names], workers=1))
    assert (tmp_path / "a").exists()
    assert not (tmp_path / "after it").exists()


@pytest.mark.parametrize("at_once", [1, 2, 3, 512])
@pytest.mark.parametrize("blocks", [0, 1, 2, 7, 50, 5000])
def test_tasks_take_every_block_and_end_together(blocks: int, at_once: int) -> None:
    sizes = task_sizes(blocks, at_once)
    assert sum(sizes) == blocks
    assert sorted(sizes, reverse=True) == sizes
    assert all(1 <= size <= MOST_BLOCKS for size in sizes)
    # list scheduling of equal blocks: who is free takes the next task
    ends = [0] * at_once
    for size in sizes:
        ends[ends.index(min(ends))] += size
    assert max(ends) - min(ends) <= 1 or blocks < at_once

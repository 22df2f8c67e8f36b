"""Sources behind URIs, through pyarrow's own clients."""

import gzip
import json
import socket
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3_stub
from s3_stub import s3_bucket

from components.corpus import remote as remote_module
from components.corpus.blocks import in_process
from components.corpus.collect import Collected, collect_corpus
from components.corpus.config import CorpusConfig
from components.corpus.remote import Unreachable
from components.corpus.sources import source_identity, source_problems

TEXTS = [f"# Row {i}\n" + f"value_{i} = function(argument_{i})\n" * 12 for i in range(30)]


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    remote_module._probe.cache_clear()
    remote_module._filesystem.cache_clear()


def _collect(directory: Path, config: CorpusConfig) -> Collected:
    directory.mkdir()
    return collect_corpus(config, directory, in_process, lambda done, total, text: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bucket/t").mkdir(parents=True)
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "bucket/t/a.parquet", row_group_size=10)
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    (tmp_path / "bucket/t/a.jsonl").write_text(lines)
    (tmp_path / "bucket/t/b.jsonl.gz").write_bytes(gzip.compress(lines.replace("Row", "Again").encode()))
    for i, text in enumerate(TEXTS):
        (tmp_path / f"bucket/t/{i:02d}.py").write_text(text)
    return tmp_path / "bucket"


@pytest.mark.parametrize(("source", "glob"), [("parquet", ""), ("jsonl", ""), ("files", "/*.py")])
def test_a_bucket_gives_the_same_corpus_as_its_folder(source: str, glob: str, folder: Path, tmp_path: Path) -> None:
    here = CorpusConfig(source=source, path=f"{folder}/t{glob}")  # type: ignore[arg-type]
    expected = _collect(tmp_path / "here", here)
    with s3_bucket(folder) as (query, _):
        there = CorpusConfig(source=source, path=f"s3://bucket/t{glob}{query}")  # type: ignore[arg-type]
        assert source_problems(there) == []
        assert source_identity(there)["files"] == source_identity(here)["files"]
        assert _collect(tmp_path / "there", there).digest == expected.digest
    uri = CorpusConfig(source=source, path=f"file://{folder}/t{glob}")  # type: ignore[arg-type]
    assert source_problems(uri) == []
    assert _collect(tmp_path / "uri", uri).digest == expected.digest


def test_a_file_that_cannot_be_read_ends_the_run_as_the_corpus_would_change(folder: Path, tmp_path: Path) -> None:
    with s3_bucket(folder, frozenset({"t/07.py"})) as (query, _):
        config = CorpusConfig(source="files", path=f"s3://bucket/t/*.py{query}")
        with pytest.raises(Unreachable, match=r"bucket/t/07.py"):
            _collect(tmp_path / "out", config)


def test_what_is_not_there_is_named_before_a_run(folder: Path) -> None:
    with s3_bucket(folder) as (query, _):
        for path, words in (
            (f"s3://bucket/nothing{query}", "does not exist"),
            (f"s3://elsewhere/t{query}", "does not exist"),
            (f"s3://bucket/t/*.arrow{query}", "names no file"),
            ("gopher://host/t", "scheme that pyarrow does not know"),
            ("s3://name:word@bucket/t", "password"),
        ):
            (problem,) = source_problems(CorpusConfig(source="parquet", path=path))
            assert problem.startswith("corpus.path ")
            assert words in problem
            json.dumps(source_identity(CorpusConfig(source="parquet", path=path)))


def test_a_server_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_module, "ANSWER_SECONDS", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"region=us-east-1&scheme=http&endpoint_override=127.0.0.1:{silent.getsockname()[1]}"
        config = CorpusConfig(source="jsonl", path=f"s3://bucket/t?{endpoint}")
        started = time.monotonic()
        (problem,) = source_problems(config)
        source_identity(config)
        assert time.monotonic() - started < 60  # pyarrow itself tries for 100 seconds, and cannot be stopped
    assert "no answer within 2 seconds" in problem


def test_a_listing_that_takes_long_is_spoken_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with s3_bucket(folder) as (query, _):
        config = CorpusConfig(source="jsonl", path=f"s3://bucket/t{query}")
        source_identity(config)
        assert capfd.readouterr().err == ""
        monkeypatch.setattr(remote_module, "SILENT_SECONDS", 0)
        answer = s3_stub._Handler._listing
        monkeypatch.setattr(s3_stub._Handler, "_listing", lambda *given: time.sleep(0.5) or answer(*given))
        source_identity(config)
    assert capfd.readouterr().err.startswith("listing s3://bucket/t")

"""Speed and memory of tokenizing to shards on Ray, beside one sentencepiece process on the same text."""

import contextlib
import hashlib
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from threading import Event, Thread
from typing import Any

from components.corpus.blocks import in_process, on_ray_data
from components.corpus.collect import collect_corpus
from components.corpus.config import CorpusConfig
from components.corpus.reader import read_row_group, row_groups
from components.shards.pack import Packed, pack
from components.tokenizer.codec import FACTS_FILE, MODEL_FILE, SentencePieceCodec
from components.tokenizer.config import TokenizerConfig
from components.tokenizer.train import sample, train_sentencepiece


def compare(megabytes: int, vocabulary_size: int, repeats: int) -> dict[str, Any]:
    """Tokenize the same text by one process and by Ray on every core, in turns. Ray must be running.

    The text is the installed Python code, repeated under other ids where there is not enough of it.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus, text_bytes = _corpus(folder, megabytes * 1_000_000)
        tokenizer = _tokenizer(folder, corpus, text_bytes, vocabulary_size)
        _on_ray(corpus, tokenizer, folder / "warm")  # starts the workers
        one, many, digests = [], [], set()
        memory = Memory()
        with multiprocessing.get_context("spawn").Pool(1) as alone:  # its memory is not the driver's
            alone.apply(_one_process, (corpus, tokenizer, 1))
            for turn in range(repeats):
                one.append(_timed(lambda: alone.apply(_one_process, (corpus, tokenizer))))
                out = folder / f"out-{turn}"
                with memory.watch():
                    started = time.perf_counter()
                    digests.add(_on_ray(corpus, tokenizer, out).digest)
                    many.append(time.perf_counter() - started)
                shutil.rmtree(out)
    assert len(digests) == 1, digests
    return {
        "text_bytes": text_bytes,
        "one_process_seconds": one,
        "ray_seconds": many,
        "ratio": median(one) / median(many),
        "ratios": [a / b for a, b in zip(one, many, strict=True)],
        "bytes_per_second": text_bytes / median(many),
        "driver_growth_bytes": memory.driver_growth,
        "largest_worker_bytes": memory.largest_worker,
        "digest": digests.pop(),
    }


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _corpus(folder: Path, n_bytes: int) -> tuple[Path, int]:
    """A corpus of the installed Python code with about `n_bytes` in its training split."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    directory = folder / "corpus"
    directory.mkdir()
    config = CorpusConfig(max_bytes=n_bytes, max_digit_share=1.0)
    found = collect_corpus(config, directory, in_process, lambda done, total, text: None)
    have, copy = found.text_bytes["train"], 1
    parts = sorted((directory / "train").glob("part-*.parquet"))
    while have < 0.9 * n_bytes:
        for number, part in enumerate(parts):
            with pq.ParquetFile(part) as source:
                target = directory / "train" / f"part-{copy:03d}{number:02d}.parquet"
                with pq.ParquetWriter(target, source.schema_arrow, compression="zstd") as writer:
                    for index in range(source.num_row_groups):
                        table = source.read_row_group(index)
                        ids = [f"{copy}/{id}" for id in table.column("id").to_pylist()]
                        writer.write_table(table.set_column(0, "id", pa.array(ids)), row_group_size=len(ids))
                        have += sum(len(text.encode()) for text in table.column("text").to_pylist())
                        if have >= 0.9 * n_bytes:
                            break
            if have >= 0.9 * n_bytes:
                break
        copy += 1
    held_out = sum(found.text_bytes.values()) - found.text_bytes["train"]
    return directory, have + held_out


def _tokenizer(folder: Path, corpus: Path, text_bytes: int, vocabulary_size: int) -> Path:
    import json

    directory = folder / "tokenizer"
    directory.mkdir()
    config = TokenizerConfig(vocabulary_size=vocabulary_size, sample_bytes=4_000_000)
    model = train_sentencepiece(config, sample(corpus, "train", text_bytes, config.sample_bytes, config.seed))
    (directory / MODEL_FILE).write_bytes(model)
    (directory / FACTS_FILE).write_text(json.dumps({"kind": config.kind, "vocabulary_size": vocabulary_size}))
    return directory


def _one_process(corpus: Path, tokenizer: Path, row_groups_at_most: int | None = None) -> str:
    """What a script would do: read, encode with one thread, append the ids to a file."""
    codec = SentencePieceCodec((tokenizer / MODEL_FILE).read_bytes())
    digest = hashlib.sha256()
    with tempfile.TemporaryFile() as out:
        for split in ("train", "validation", "test"):
            for file, index in row_groups(corpus, split)[:row_groups_at_most]:
                for ids in codec.encode_batch(read_row_group(corpus, file, index, "text")[0], threads=1):
                    out.write(ids.tobytes())
                    digest.update(ids.tobytes())
    return digest.hexdigest()


def _on_ray(corpus: Path, tokenizer: Path, out: Path) -> Packed:
    out.mkdir()

    return pack(corpus, tokenizer, out, 4_000_000, on_ray_data, lambda done, total, text: None)


@dataclass
class Memory:
    """The most that was seen while `watch` was on (Linux)."""

    driver_growth: int = 0
    """By which this process's own memory grew."""
    largest_worker: int = 0
    """Held by any Ray worker: what it does not share with others."""

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Look five times a second."""
        before, over = _private_bytes("self"), Event()

        def look() -> None:
            while not over.wait(0.2):
                self.driver_growth = max(self.driver_growth, _private_bytes("self") - before)
                for process in Path("/proc").glob("[0-9]*"):
                    with contextlib.suppress(OSError):
                        if (process / "cmdline").read_bytes().startswith(b"ray::"):
                            self.largest_worker = max(self.largest_worker, _private_bytes(process.name))

        thread = Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def _private_bytes(process: str) -> int:
    """Resident memory of a process without what it shares with others, such as Ray's object store."""
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    )
    return 1024 * int(fields.get("RssAnon", "0 kB").split()[0])

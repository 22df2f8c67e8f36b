"""From a corpus to shards: tokenize its row groups in any order, then lay the tokens out in document order.

Where a shard ends is decided from the token counts of the documents in id order, so the files are equal byte for
byte for any number of workers.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.artifacts import SPLITS
from components.corpus.blocks import Mapper, Progress, throttled
from components.corpus.reader import read_row_group, row_groups
from components.shards.reader import MANIFEST_FILE
from components.tokenizer.codec import load_tokenizer, token_dtype

TokenizeBlocks = Callable[[list[Any]], Iterator[Any]]
"""Applies `Tokenizing` to blocks of work, in any order."""


@dataclass(frozen=True)
class Packed:
    """What `pack` wrote, per split."""

    digest: str
    vocabulary_size: int
    tokens: dict[str, int]
    documents: dict[str, int]
    text_bytes: dict[str, int]


class Tokenizing:
    """Tokenizes one row group into a file of bare ids; made once in each worker.

    Every document is its beginning mark, its ids, its end mark.
    """

    def __init__(self, tokenizer: str) -> None:
        self.codec = load_tokenizer(Path(tokenizer))

    def __call__(self, block: dict[str, Any]) -> dict[str, Any]:
        _, texts = read_row_group(Path(block["corpus"]), block["file"], block["row_group"])
        dtype = token_dtype(self.codec.vocabulary_size)
        target = Path(block["target"])
        partial = target.with_suffix(".partial")  # a task that is run again starts over
        begin, end = (np.array([mark], dtype=dtype) for mark in (self.codec.bos_id, self.codec.eos_id))
        lengths = []
        with partial.open("wb") as out:
            for ids in self.codec.encode_batch(texts):
                out.write(np.concatenate([begin, ids, end]).tobytes())
                lengths.append(len(ids) + 2)
        partial.replace(target)
        text_bytes = sum(len(text.encode()) for text in texts)
        return {"index": block["index"], "lengths": lengths, "text_bytes": text_bytes}


def pack(
    corpus: Path,
    tokenizer: Path,
    directory: Path,
    shard_tokens: int,
    tokenize: TokenizeBlocks,
    mapper: Mapper,
    progress: Progress,
) -> Packed:
    """Write the shards of a corpus (layout: artifacts.Shards) into `directory`."""
    report = throttled(progress)
    codec = load_tokenizer(tokenizer)
    shutil.copytree(tokenizer, directory / "tokenizer", ignore=_all_but_tokenizer)
    aside = directory / ".aside"
    aside.mkdir()
    work: list[dict[str, Any]] = []
    for split in SPLITS:
        (directory / split).mkdir()
        for file, row_group in row_groups(corpus, split):
            index = len(work)
            work.append(
                {
                    "index": index,
                    "split": split,
                    "corpus": str(corpus),
                    "file": file,
                    "row_group": row_group,
                    "target": str(aside / f"{index:07d}.ids"),
                }
            )
    answers: dict[int, dict[str, Any]] = {}
    for answer in tokenize(work):
        answers[answer["index"]] = answer
        report(len(answers), len(work) + 1, "tokenizing")
    dtype = str(token_dtype(codec.vocabulary_size))
    layout: list[dict[str, Any]] = []
    for split in SPLITS:
        pieces = [(block["target"], answers[block["index"]]["lengths"]) for block in work if block["split"] == split]
        for number, shard in enumerate(_lay_out(pieces, shard_tokens)):
            file = f"{split}/shard-{number:05d}.arrow"
            layout.append({"directory": str(directory), "file": file, "split": split, "dtype": dtype, **shard})
    written: list[dict[str, Any]] = []
    for shard in mapper(write_shard, layout):
        written.append(shard)
        report(len(written), len(layout), "writing shards")
    shutil.rmtree(aside)
    order = {split: number for number, split in enumerate(SPLITS)}
    written.sort(key=lambda shard: (order[shard["split"]], shard["file"]))
    of_split = {split: [answers[b["index"]] for b in work if b["split"] == split] for split in SPLITS}
    tokens = {split: sum(sum(a["lengths"]) for a in of_split[split]) for split in SPLITS}
    documents = {split: sum(len(a["lengths"]) for a in of_split[split]) for split in SPLITS}
    text_bytes = {split: sum(a["text_bytes"] for a in of_split[split]) for split in SPLITS}
    digest = hashlib.sha256(
        json.dumps([codec.vocabulary_size, dtype, text_bytes, [_content(s) for s in written]]).encode()
    )
    manifest = {
        "vocabulary_size": codec.vocabulary_size,
        "bos_id": codec.bos_id,
        "eos_id": codec.eos_id,
        "dtype": dtype,
        "tokens": tokens,
        "documents": documents,
        "text_bytes": text_bytes,
        "shards": written,
    }
    (directory / MANIFEST_FILE).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return Packed(digest.hexdigest(), codec.vocabulary_size, tokens, documents, text_bytes)


def _all_but_tokenizer(_: str, names: list[str]) -> list[str]:
    return [name for name in names if not name.startswith("tokenizer.")]


def _lay_out(pieces: list[tuple[str, list[int]]], shard_tokens: int) -> Iterator[dict[str, Any]]:
    """Cut the documents of a split into shards: which runs of which files each consists of."""
    runs: list[list[Any]] = []
    tokens = documents = 0
    for file, lengths in pieces:
        start = position = 0
        for length in lengths:
            position += length
            tokens += length
            documents += 1
            if tokens >= shard_tokens:
                yield {"runs": [*runs, [file, start, position - start]], "tokens": tokens, "documents": documents}
                runs, tokens, documents, start = [], 0, 0, position
        if position > start:
            runs.append([file, start, position - start])
    if runs:
        yield {"runs": runs, "tokens": tokens, "documents": documents}


def write_shard(shard: dict[str, Any]) -> dict[str, Any]:
    """Write one shard as an Arrow file with one record batch, and answer with its line of the manifest."""
    import pyarrow as pa

    dtype = np.dtype(shard["dtype"])
    ids = np.empty(shard["tokens"], dtype=dtype)
    filled = 0
    for file, start, length in shard["runs"]:
        ids[filled : filled + length] = np.fromfile(file, dtype, length, offset=start * dtype.itemsize)
        filled += length
    target = Path(shard["directory"]) / shard["file"]
    partial = target.with_suffix(".partial")
    batch = pa.record_batch([pa.array(ids)], names=["tokens"])
    with pa.OSFile(str(partial), "wb") as out, pa.ipc.new_file(out, batch.schema) as writer:
        writer.write_batch(batch)
    with partial.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    partial.replace(target)
    return {
        "file": shard["file"],
        "split": shard["split"],
        "tokens": shard["tokens"],
        "documents": shard["documents"],
        "bytes": target.stat().st_size,
        "sha256": sha256,
        "tokens_sha256": hashlib.sha256(ids.tobytes()).hexdigest(),
    }


def _content(shard: dict[str, Any]) -> list[Any]:
    """What of a shard counts for the digest: its ids, not the container, which may change with a version of Arrow."""
    return [shard["file"], shard["tokens"], shard["documents"], shard["tokens_sha256"]]

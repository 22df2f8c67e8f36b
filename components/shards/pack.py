"""From a corpus to shards: tokenize its row groups in any order, then lay the tokens out in document order.

Where a shard ends is decided from the token counts of the documents in id order, so the files are equal byte for
byte for any number of workers.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from components.artifacts import SPLITS, ShardsSource
from components.corpus.blocks import Mapper, Progress, throttled
from components.corpus.reader import read_row_group, row_groups
from components.corpus.split import hash_number
from components.shards.mixture import FACTS, Facts, Mask, chosen, shares
from components.shards.reader import MANIFEST_FILE
from components.tokenizer.codec import load_tokenizer, token_dtype


@dataclass(frozen=True)
class Packed:
    """What `pack` wrote, per split."""

    digest: str
    vocabulary_size: int
    tokens: dict[str, int]
    documents: dict[str, int]
    text_bytes: dict[str, int]
    sources: dict[str, ShardsSource]
    """Of a mixture."""


_codec = lru_cache(maxsize=1)(load_tokenizer)
"""Read once in a process, for all blocks that it is given."""


def tokenize_block(block: dict[str, Any]) -> int:
    """Tokenize one row group into a file of bare ids, and beside it a file of what is known of its documents
    (mixture.FACTS).

    Every document is its beginning mark, its ids, its end mark.
    """
    codec = _codec(Path(block["tokenizer"]))
    columns = ("id", "text", "source") if block["sources"] else ("id", "text")
    names, texts, *sources = read_row_group(Path(block["corpus"]), block["file"], block["row_group"], *columns)
    dtype = token_dtype(codec.vocabulary_size)
    target = Path(block["target"])
    partial = target.with_suffix(".partial")  # a task that is run again starts over
    begin, end = (np.array([mark], dtype=dtype) for mark in (codec.bos_id, codec.eos_id))
    facts = np.zeros(len(texts), FACTS)
    with partial.open("wb") as out:
        for row, ids in enumerate(codec.encode_batch(texts)):
            out.write(np.concatenate([begin, ids, end]).tobytes())
            facts["tokens"][row] = len(ids) + 2
    facts["bytes"] = [len(text.encode()) for text in texts]
    if sources:
        facts["draw"] = [hash_number(0, "mixture", name) for name in names]
        facts["source"] = [block["sources"].index(source) for source in sources[0]]
    np.save(target.with_suffix(".npy"), facts)
    partial.replace(target)
    return int(block["index"])


def pack(
    corpus: Path,
    tokenizer: Path,
    directory: Path,
    shard_tokens: int,
    mapper: Mapper,
    progress: Progress,
    weights: Mapping[str, float] | None = None,
) -> Packed:
    """Write the shards of a corpus (layout: artifacts.Shards) into `directory`. With `weights`, of a mixture of its
    sources: in every split alike, so that a score on held-out text has one meaning whatever the split's size."""
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
                    "tokenizer": str(tokenizer),
                    "corpus": str(corpus),
                    "file": file,
                    "row_group": row_group,
                    "sources": list(weights or ()),
                    "target": str(aside / f"{index:07d}.ids"),
                }
            )
    for done, _ in enumerate(mapper(tokenize_block, work), 1):
        report(done, len(work) + 1, "tokenizing")
    dtype = str(token_dtype(codec.vocabulary_size))
    layout: list[dict[str, Any]] = []
    by_split: dict[str, tuple[Facts, Mask]] = {}
    for split in SPLITS:
        files = [block["target"] for block in work if block["split"] == split]
        facts = [np.load(Path(file).with_suffix(".npy")) for file in files]
        by_split[split] = _mixed(split, facts, weights)
        ends = np.cumsum([len(some) for some in facts])
        taken = np.split(by_split[split][1], ends[:-1])
        pieces = zip(files, [some["tokens"] for some in facts], taken, strict=True)
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
    kept = {split: facts[mask] for split, (facts, mask) in by_split.items()}
    tokens = {split: int(facts["tokens"].sum(dtype=np.int64)) for split, facts in kept.items()}
    documents = {split: len(facts) for split, facts in kept.items()}
    text_bytes = {split: int(facts["bytes"].sum(dtype=np.int64)) for split, facts in kept.items()}
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
    sources = shares(by_split, weights) if weights else {}
    return Packed(digest.hexdigest(), codec.vocabulary_size, tokens, documents, text_bytes, sources)


def _mixed(split: str, facts: list[Facts], weights: Mapping[str, float] | None) -> tuple[Facts, Mask]:
    """The documents of a split, and which of them are taken."""
    together: Facts = np.concatenate([np.zeros(0, FACTS), *facts])
    if not weights:
        return together, np.ones(len(together), bool)
    try:
        return together, chosen(together, weights)
    except ValueError as error:
        raise ValueError(f"the {split} split has {error}: no mixture can be made; give that source more text") from None


def _all_but_tokenizer(_: str, names: list[str]) -> list[str]:
    return [name for name in names if not name.startswith("tokenizer.")]


def _lay_out(pieces: Iterable[tuple[str, npt.NDArray[np.uint32], Mask]], shard_tokens: int) -> Iterator[dict[str, Any]]:
    """Cut the documents of a split that are taken into shards: which runs of which files each consists of."""
    runs: list[list[Any]] = []
    tokens = documents = 0
    for file, lengths, taken in pieces:
        start = position = 0
        for length, is_taken in zip(lengths.tolist(), taken.tolist(), strict=True):
            if not is_taken:
                if position > start:
                    runs.append([file, start, position - start])
                position += length
                start = position
                continue
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

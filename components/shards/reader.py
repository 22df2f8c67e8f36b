"""Reading windows of tokens from shards that are memory-mapped, never loaded whole."""

import bisect
import hashlib
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

MANIFEST_FILE = "shards.json"

_OPEN_SHARDS = 128
"""Maps kept open at a time: an open map holds a file descriptor, and a corpus may have thousands of shards."""


class TokenReader:
    """The tokens of one split as one long sequence: every document is its beginning mark, its ids, its end mark.

    ValueError for an unknown split, a missing, truncated or foreign shard (it is named).
    """

    def __init__(self, directory: Path, split: str) -> None:
        self.directory = Path(directory)
        manifest = json.loads((self.directory / MANIFEST_FILE).read_text(encoding="utf-8"))
        if split not in manifest["tokens"]:
            raise ValueError(f"{directory} has no split {split!r}; it has {', '.join(manifest['tokens'])}")
        self.split = split
        self.vocabulary_size: int = manifest["vocabulary_size"]
        self.bos_id: int = manifest["bos_id"]
        self.eos_id: int = manifest["eos_id"]
        self.n_tokens: int = manifest["tokens"][split]
        self.documents: int = manifest["documents"][split]
        self.text_bytes: int = manifest["text_bytes"][split]
        self.dtype = np.dtype(manifest["dtype"])
        self._shards = [shard for shard in manifest["shards"] if shard["split"] == split]
        self._starts = [0]
        for shard in self._shards:
            self._starts.append(self._starts[-1] + shard["tokens"])
        self._open: OrderedDict[int, npt.NDArray[Any]] = OrderedDict()
        for shard in self._shards:  # sizes cost one stat each and tell a truncated file before training starts
            path = self.directory / shard["file"]
            size = path.stat().st_size if path.exists() else None
            if size != shard["bytes"]:
                state = "is missing" if size is None else f"has {size} bytes instead of {shard['bytes']}"
                raise ValueError(f"shard {path} {state}; {self._again}")

    def __len__(self) -> int:
        return self.n_tokens

    def locate(self, position: int) -> tuple[Path, int]:
        """The shard file that holds a position, and the offset in it, in tokens."""
        if not 0 <= position < self.n_tokens:
            raise ValueError(f"position {position} is outside the {self.n_tokens} tokens of {self.split}")
        index = bisect.bisect_right(self._starts, position) - 1
        return self.directory / self._shards[index]["file"], position - self._starts[index]

    def window(self, start: int, length: int) -> npt.NDArray[np.int64]:
        """Tokens [start, start + length), a copy of shape (length,); it may span shards."""
        if start < 0 or length < 0 or start + length > self.n_tokens:
            raise ValueError(
                f"tokens {start} to {start + length} are outside the {self.n_tokens} tokens of {self.split}"
            )
        out = np.empty(length, dtype=np.int64)
        filled = 0
        index = bisect.bisect_right(self._starts, start) - 1
        while filled < length:
            offset = start + filled - self._starts[index]
            piece = self._map(index)[offset : offset + length - filled]
            out[filled : filled + len(piece)] = piece
            filled += len(piece)
            index += 1
        if length and int(out.max()) >= self.vocabulary_size:
            path, offset = self.locate(start + int(out.argmax()))
            raise ValueError(
                f"shard {path} holds token {int(out.max())} at offset {offset}, outside the vocabulary of "
                f"{self.vocabulary_size}: the file is damaged; {self._again}"
            )
        return out

    @property
    def n_shards(self) -> int:
        return len(self._shards)

    def verify(self, share: slice = slice(None)) -> None:
        """Compare shards, or a share of them, with their sha256 in the manifest, at more than 1 GB/s. ValueError
        names those that differ."""
        wrong = []
        for shard in self._shards[share]:
            with (self.directory / shard["file"]).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != shard["sha256"]:
                    wrong.append(str(self.directory / shard["file"]))
        if wrong:
            raise ValueError(f"not the sha256 in {MANIFEST_FILE}, so damaged: shard {', '.join(wrong)}; {self._again}")

    @property
    def _again(self) -> str:
        return f"delete the folder {self.directory} and give the same command again, which makes the shards anew"

    def _map(self, index: int) -> npt.NDArray[Any]:
        if index in self._open:
            self._open.move_to_end(index)
            return self._open[index]
        import pyarrow as pa

        path = self.directory / self._shards[index]["file"]
        try:
            batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
            tokens: npt.NDArray[Any] = batch.column("tokens").to_numpy(zero_copy_only=True)
        except (pa.ArrowInvalid, KeyError, OSError) as error:
            raise ValueError(f"shard {path} is damaged ({error}); {self._again}") from None
        if len(tokens) != self._shards[index]["tokens"] or tokens.dtype != self.dtype:
            raise ValueError(
                f"shard {path} has {len(tokens)} tokens of type {tokens.dtype}, {MANIFEST_FILE} says "
                f"{self._shards[index]['tokens']} of type {self.dtype}; {self._again}"
            )
        self._open[index] = tokens
        if len(self._open) > _OPEN_SHARDS:
            self._open.popitem(last=False)
        return tokens

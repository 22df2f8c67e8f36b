"""Documents that are nearly the same: MinHash signatures made by workers, compared by the driver in bands.

A document is the set of its runs of five words; two documents are as alike as their sets (Jaccard similarity). The
share of equal places in two signatures estimates it, to about 0.03. Signatures stay on disk, and the driver looks up
those alone that agree in a band (the library's own index would hold kilobytes of every document).
"""

import functools
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from components.corpus.records import Rows, integers

PLACES = 128
"""Numbers of 32 bits in a signature."""
WORDS = 5
AT_A_TIME = 10_000
"""Runs of words hashed at a time: each takes 0.5 kB meanwhile."""
SURELY = 0.99
"""Chance that two documents exactly as alike as asked are compared at all; more alike, it is higher."""

Signature = npt.NDArray[np.uint32]


def signature_of(text: str) -> Signature:
    """The MinHash signature of a text, letters' case and everything between words aside."""
    words = re.findall(r"\w+", text.lower())
    runs = {" ".join(words[i : i + WORDS]) for i in range(max(1, len(words) - WORDS + 1))}
    minhash = _empty().copy()
    batch: list[bytes] = []
    for run in runs:
        batch.append(run.encode())
        if len(batch) == AT_A_TIME:
            minhash.update_batch(batch)
            batch = []
    minhash.update_batch(batch)
    signature: Signature = minhash.hashvalues
    return signature


@functools.cache
def _empty() -> Any:
    from datasketch import MinHash
    from datasketch.hashfunc import sha1_hash32

    return MinHash(PLACES, seed=1, hashfunc=sha1_hash32, scheme="affine32")


def near_duplicates(records: Any, threshold: float, aside: Path) -> tuple[Rows, npt.NDArray[np.float64]]:
    """Of every row the lowest row before it that is kept and at least `threshold` alike, or -1; and how alike.

    Rows are in id order: what is kept is the first of its like.
    """
    files, places = integers(records, "file"), integers(records, "row")

    @functools.lru_cache(maxsize=64)  # an open map holds a file descriptor
    def signatures(file: int) -> npt.NDArray[np.uint32]:
        return np.memmap(aside / f"{file:06d}.signatures", np.uint32, "r").reshape(-1, PLACES)

    groups = _groups(files, places, threshold, signatures)
    originals = np.full(len(records), -1)
    similarities = np.zeros(len(records))
    kept: dict[int, list[int]] = defaultdict(list)
    for row in sorted(groups):
        candidates = sorted({other for group in groups[row] for other in kept[group]})
        mine = signatures(files[row])[places[row]]
        for other in candidates:
            alike = float(np.mean(mine == signatures(files[other])[places[other]]))
            if alike >= threshold:
                originals[row], similarities[row] = other, alike
                break
        else:
            for group in groups[row]:
                kept[group].append(row)
    return originals, similarities


def rows_per_band(threshold: float) -> int:
    """How many places a band has: as many as leave two documents that are `threshold` alike equal in one band, surely
    enough. Longer bands make fewer comparisons."""
    fit = [r for r in range(1, PLACES + 1) if 1 - (1 - threshold**r) ** (PLACES // r) >= SURELY]
    return max(fit, default=1)


def _groups(
    files: npt.NDArray[Any],
    places: npt.NDArray[Any],
    threshold: float,
    signatures: Callable[[int], npt.NDArray[np.uint32]],
) -> dict[int, list[int]]:
    """The rows that agree with another in a band, each with the numbers of such groups of rows."""
    width = rows_per_band(threshold)
    by_file = np.argsort(files, kind="stable")
    of_file = np.split(by_file, np.flatnonzero(np.diff(files[by_file])) + 1)
    groups: dict[int, list[int]] = defaultdict(list)
    first = 0
    for start in range(0, PLACES - width + 1, width):
        keys = np.zeros(len(files), np.uint64)
        for rows in of_file:
            keys[rows] = _hashed(signatures(files[rows[0]])[places[rows], start : start + width])
        order = np.argsort(keys, kind="stable")
        number = np.cumsum(np.diff(keys[order], prepend=keys[order[0]]) != 0) + first
        shared = np.bincount(number)[number] > 1
        for row, group in zip(order[shared].tolist(), number[shared].tolist(), strict=True):
            groups[row].append(group)
        first = int(number[-1]) + 1
    return groups


def _hashed(band: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
    """A number of 64 bits for every row of a band."""
    keys = np.full(len(band), 0x9E3779B97F4A7C15, np.uint64)
    for column in band.T:
        keys = (keys ^ column) * np.uint64(0xD6E8FEB86659FD93)  # wraps modulo 2^64, as meant
        keys ^= keys >> np.uint64(32)
    return keys

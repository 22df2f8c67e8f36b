"""Choosing by hash: which pieces and documents are drawn first, and which split each document goes to."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from components.artifacts import SPLITS
from components.corpus.pieces import Piece

MIN_GROUPS = 20
"""With fewer groups than this, whole groups cannot meet the shares: the split goes by document."""


def hash_number(seed: int, purpose: str, name: str) -> int:
    """A number below 2^64 that depends on nothing but its arguments; equal purposes draw alike."""
    digest = hashlib.blake2b(f"{seed}\0{purpose}\0{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def hash_fraction(seed: int, purpose: str, name: str) -> float:
    """The same as a number in [0, 1)."""
    return hash_number(seed, purpose, name) / 2**64


def subset_draw(seed: int, piece: Piece, id: str) -> int:
    """Where a document stands in the order in which a subset is drawn: by its piece first, so that a subset can be
    had without reading all pieces, then by its id."""
    of_piece = hash_number(seed, "subset", piece.name)
    return of_piece if id == piece.id else of_piece >> 32 << 32 | hash_number(seed, "row", id) >> 32


def assign_units(sizes: npt.NDArray[Any], draws: npt.NDArray[Any], shares: Sequence[float]) -> npt.NDArray[np.int8]:
    """The split (its place in SPLITS) of each unit, a group or a document, so that the held-out splits hold about
    their shares of the bytes. The rest is the training split.

    Units are taken in the order of their draws while they fit the share; a last one is added where it brings the
    share nearer. So a unit larger than the share stays in training unless nothing smaller is there.
    """
    assigned = np.zeros(len(sizes), np.int8)
    order = np.argsort(draws, kind="stable")
    for split, share in zip(range(1, len(SPLITS)), shares, strict=True):
        target, filled, taken = share * sizes.sum(), 0, 0
        for unit in order:
            if not assigned[unit] and filled + sizes[unit] <= target:
                assigned[unit] = split
                filled += int(sizes[unit])
                taken += 1
        rest = order[assigned[order] == 0]
        if len(rest) < 2:  # the last one belongs to training
            continue
        nearest = rest[np.argmin(abs(target - filled - sizes[rest]))]
        if not taken or abs(target - filled - sizes[nearest]) < target - filled:
            assigned[nearest] = split
    return assigned


def assign_splits(records: Any, shares: Sequence[float], seed: int) -> tuple[npt.NDArray[np.int8], bool]:
    """The split of every record, and whether whole groups were kept together."""
    import pyarrow.compute as pc

    groups = records.column("group")
    by_group = len(pc.unique(groups)) >= MIN_GROUPS
    encoded = (groups if by_group else records.column("id")).combine_chunks().dictionary_encode()
    unit = encoded.indices.to_numpy()
    sizes = np.bincount(unit, records.column("bytes").to_numpy()).astype(np.int64)
    names = (name.as_py() for name in encoded.dictionary)
    draws = np.fromiter((hash_number(seed, "split", name) for name in names), np.uint64, len(sizes))
    return assign_units(sizes, draws, shares)[unit], by_group

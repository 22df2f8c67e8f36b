"""Choosing by hash: which pieces and documents are drawn first, and which split each document goes to."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from components.corpus.pieces import Piece

MIN_GROUPS = 20
"""With fewer groups than this, whole groups cannot meet the shares: the split goes by document."""

SMALL, HALF = 0.2, 0.5
"""Parts of a held-out split's share: how large a unit may be without having too much say in its score, and without
having most of it."""


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

    Units are offered in the order of their draws and go to the emptier split that they fit in; larger ones follow,
    the smallest first; a last one is added where it brings a share nearer. A unit larger than SMALL of a share waits
    for the smaller ones, one larger than HALF is taken only where a split would else not be half filled: so a score
    hinges on no single package where there are others.
    """
    targets = [share * int(sizes.sum()) for share in shares]
    filled = [0 for _ in shares]
    assigned = np.zeros(len(sizes), np.int8)
    in_order = np.argsort(draws, kind="stable")
    by_size = in_order[np.argsort(sizes[in_order], kind="stable")]

    def most(split: int, limit: float) -> float:
        """The largest unit that a split may take."""
        return targets[split] * (limit if limit < 1 or filled[split] < HALF * targets[split] else HALF)

    def take(unit: int, split: int) -> None:
        assigned[unit] = split + 1
        filled[split] += int(sizes[unit])

    for order, limit in ((in_order, SMALL), (by_size, HALF), (by_size, 1)):
        for unit in order.tolist():
            if all(targets[split] - filled[split] < sizes[by_size[0]] for split in range(len(shares))):
                break
            size = int(sizes[unit])
            for split in sorted(range(len(shares)), key=lambda s: filled[s] / targets[s]):
                if not assigned[unit] and size <= min(most(split, limit), targets[split] - filled[split]):
                    take(unit, split)
    for split, target in enumerate(targets):
        rest = in_order[assigned[in_order] == 0]
        if len(rest) < 2:  # the last one belongs to training
            continue
        lacking = target - filled[split]
        rest = rest[(sizes[rest] <= HALF * target) | (filled[split] < HALF * target)]
        if len(rest) and (not filled[split] or np.min(abs(lacking - sizes[rest])) < lacking):
            take(int(rest[np.argmin(abs(lacking - sizes[rest]))]), split)
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

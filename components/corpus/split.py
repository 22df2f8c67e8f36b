"""Choosing by hash: which pieces and documents are drawn first, and which split each document goes to."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from components.artifacts import SPLITS
from components.corpus.pieces import Piece
from components.corpus.records import integers

MIN_GROUPS = 20
"""With fewer groups than this, whole groups cannot meet the shares: the split goes by document."""
MIN_NAMED_GROUPS = 3
"""The same of groups that a person named: they stay whole, however far from their shares the splits come."""

FREE = -1
"""In place of a split's number, for a unit that has none yet."""
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


def assign_units(
    sizes: npt.NDArray[Any],
    draws: npt.NDArray[Any],
    shares: Sequence[float],
    decided: npt.NDArray[np.int8] | None = None,
) -> npt.NDArray[np.int8]:
    """The split (its place in SPLITS) of each unit, a group or a document, so that the held-out splits hold about
    their shares of the bytes. The rest is the training split. Units that are `decided` already (not -1) stay.

    Units are offered in the order of their draws and go to the emptier split that they fit in; larger ones follow,
    the smallest first; a last one is added where it brings a share nearer. A unit larger than SMALL of a share waits
    for the smaller ones, one larger than HALF is taken only where a split would else not be half filled: so a score
    hinges on no single package where there are others.
    """
    targets = [share * int(sizes.sum()) for share in shares]
    assigned = np.full(len(sizes), FREE, np.int8) if decided is None else decided.copy()
    filled = [int(sizes[assigned == split].sum()) for split in range(1, len(SPLITS))]
    in_order = np.argsort(draws, kind="stable")
    in_order = in_order[(assigned[in_order] == FREE) & (sizes[in_order] > 0)]
    by_size = in_order[np.argsort(sizes[in_order], kind="stable")]

    def most(split: int, limit: float) -> float:
        """The largest unit that a split may take."""
        return targets[split] * (limit if limit < 1 or filled[split] < HALF * targets[split] else HALF)

    def take(unit: int, split: int) -> None:
        assigned[unit] = split + 1
        filled[split] += int(sizes[unit])

    for order, limit in ((in_order, SMALL), (by_size, HALF), (by_size, 1)):
        for unit in order.tolist():
            if all(target - done < sizes[by_size[0]] for target, done in zip(targets, filled, strict=True)):
                break
            size = int(sizes[unit])
            for split in sorted(range(len(shares)), key=lambda s: filled[s] / targets[s]):
                if assigned[unit] == FREE and size <= min(most(split, limit), targets[split] - filled[split]):
                    take(unit, split)
    for split, target in enumerate(targets):
        rest = in_order[assigned[in_order] == FREE]
        if len(rest) < 2:  # the last one belongs to training
            continue
        lacking = target - filled[split]
        rest = rest[(sizes[rest] <= HALF * target) | (filled[split] < HALF * target)]
        if len(rest) and (not filled[split] or np.min(abs(lacking - sizes[rest])) < lacking):
            take(int(rest[np.argmin(abs(lacking - sizes[rest]))]), split)
    return np.maximum(assigned, 0)


def assign_splits(
    records: Any, shares: Sequence[float], seed: int, least: Sequence[int] = ()
) -> tuple[npt.NDArray[np.int8], list[bool]]:
    """The split of every record, and of every source whether its groups were kept together, which takes `least` of
    them (MIN_GROUPS where it is not given).

    Every source has its shares of the held-out splits. A group that several sources have (a package's code and its
    documentation) is in the same split in all: the smallest source decides, and what would have too much say in one
    of the others stays in training.
    """
    sources, sizes = integers(records, "source"), integers(records, "bytes")
    unit, names, by_group = _units(records, sources, least)
    draws = np.fromiter((hash_number(seed, "split", name) for name in names), np.uint64, len(names))
    of_source = [
        np.bincount(unit[sources == source], sizes[sources == source], len(names)).astype(np.int64)
        for source in range(len(by_group))
    ]
    decided = np.full(len(names), FREE, np.int8)
    shared = sum((size > 0).astype(int) for size in of_source) > 1
    for size in of_source:
        decided[shared & (size > SMALL * min(shares) * size.sum())] = 0
    for size in sorted(of_source, key=lambda size: int(size.sum())):
        mine = size > 0
        decided[mine] = assign_units(size, draws, shares, decided)[mine]
    return decided[unit], by_group


def _units(
    records: Any, sources: npt.NDArray[Any], least: Sequence[int]
) -> tuple[npt.NDArray[Any], list[str], list[bool]]:
    """The number of every record's unit, the units' names, and of every source whether its units are groups."""
    groups = records.column("group").combine_chunks().dictionary_encode()
    unit = groups.indices.to_numpy().astype(np.int64)
    names, by_group = groups.dictionary.to_pylist(), []
    for source in range(int(sources.max()) + 1):
        mine = np.flatnonzero(sources == source)
        by_group.append(len(np.unique(unit[mine])) >= (least[source] if least else MIN_GROUPS))
        if not by_group[-1]:
            unit[mine] = len(names) + np.arange(len(mine))
            names += records.column("id").take(mine).to_pylist()
    return unit, names, by_group

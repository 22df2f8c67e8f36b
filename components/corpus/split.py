"""Choosing by hash: what counts as a duplicate, which documents are kept, which split each goes to."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from components.artifacts import SPLITS

MIN_GROUPS = 20
"""With fewer groups than this, whole groups cannot meet the shares: the split goes by document."""


@dataclass(frozen=True)
class Kept:
    """A document that passed the filters, and where its text was put aside."""

    id: str
    group: str
    bytes: int
    content: str
    """sha256 of the text."""
    loose_content: str
    """Hash of the text without white space: equal for duplicates."""
    file: str
    offset: int


def hash_fraction(seed: int, purpose: str, name: str) -> float:
    """A number in [0, 1) that depends on nothing but its arguments; equal purposes draw alike."""
    digest = hashlib.blake2b(f"{seed}\0{purpose}\0{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def deduplicate(documents: Iterable[Kept]) -> tuple[list[Kept], list[tuple[str, str]]]:
    """Keep the lowest id of each content, white space aside.

    Returns the kept documents in id order, and (id dropped, id kept in its place) for the others.
    """
    first: dict[str, Kept] = {}
    duplicates: list[tuple[str, str]] = []
    for document in sorted(documents, key=lambda d: d.id):
        kept = first.setdefault(document.loose_content, document)
        if kept is not document:
            duplicates.append((document.id, kept.id))
    return list(first.values()), duplicates


def choose_subset(documents: Sequence[Kept], max_bytes: int, seed: int) -> list[Kept]:
    """About `max_bytes` of documents, drawn by hash of the id: the last one drawn may exceed it. In id order."""
    chosen, total = [], 0
    for document in sorted(documents, key=lambda d: (hash_fraction(seed, "subset", d.id), d.id)):
        if total >= max_bytes:
            break
        chosen.append(document)
        total += document.bytes
    return sorted(chosen, key=lambda d: d.id)


def assign_units(sizes: Mapping[str, int], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Assign each unit (a group or a document) to a split by hash, so that the held-out splits hold about their
    shares of the bytes. The rest is the training split.

    Units are drawn in hash order and taken while they fit the share; a last one is added where it brings the
    share nearer. So a unit larger than the share stays in training unless nothing smaller is there.
    """
    total = sum(sizes.values())
    order = sorted(sizes, key=lambda unit: (hash_fraction(seed, "split", unit), unit))
    assigned: dict[str, str] = {}
    for split in SPLITS[1:]:
        target, filled, taken = shares[split] * total, 0, 0
        free = [unit for unit in order if unit not in assigned]
        for unit in free:
            if filled + sizes[unit] <= target:
                assigned[unit] = split
                filled += sizes[unit]
                taken += 1
        rest = [unit for unit in free if unit not in assigned]
        if len(rest) < 2:  # the last one belongs to training
            continue
        nearest = min(rest, key=lambda unit: abs(target - filled - sizes[unit]))
        if not taken or abs(target - filled - sizes[nearest]) < target - filled:
            assigned[nearest] = split
    return {unit: assigned.get(unit, "train") for unit in order}


def assign_splits(
    documents: Sequence[Kept], validation_share: float, test_share: float, seed: int
) -> tuple[dict[str, str], bool]:
    """The split of every document id, and whether whole groups were kept together."""
    by_group = len({document.group for document in documents}) >= MIN_GROUPS
    sizes: dict[str, int] = {}
    for document in documents:
        unit = document.group if by_group else document.id
        sizes[unit] = sizes.get(unit, 0) + document.bytes
    units = assign_units(sizes, {"validation": validation_share, "test": test_share}, seed)
    return {d.id: units[d.group if by_group else d.id] for d in documents}, by_group

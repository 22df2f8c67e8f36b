"""A mixture of sources, weighted by tokens: which documents come into it, and which are left out for its sake."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from components.artifacts import SPLITS, ShardsSource

FACTS = np.dtype([("tokens", np.uint32), ("bytes", np.uint32), ("draw", np.uint64), ("source", np.uint16)])
"""What is known of a document once it is tokenized; sources are numbered in the order of their weights."""

Facts = npt.NDArray[np.void]
Mask = npt.NDArray[np.bool_]


def chosen(facts: Facts, weights: Mapping[str, float]) -> Mask:
    """Which documents of a split belong to the mixture: of every source its weight in tokens, and as many as the
    scarcest source, for its weight, allows. Documents are taken in the order of their draws, each once.

    A source misses its share by less than one document. ValueError names one without documents.
    """
    tokens = facts["tokens"].astype(np.int64)
    there = np.bincount(facts["source"], tokens, len(weights))
    if missing := [name for name, size in zip(weights, there, strict=True) if not size]:
        raise ValueError(f"no document of {', '.join(missing)}")
    whole = min(there / np.array(list(weights.values())))
    mask = np.zeros(len(facts), bool)
    for source, weight in enumerate(weights.values()):
        rows = np.flatnonzero(facts["source"] == source)
        order = rows[np.argsort(facts["draw"][rows], kind="stable")]
        mask[order[np.cumsum(tokens[order]) <= weight * whole * (1 + 1e-9)]] = True
    return mask


def shares(by_split: Mapping[str, tuple[Facts, Mask]], weights: Mapping[str, float]) -> dict[str, ShardsSource]:
    """What came of every source, and what was left out."""
    made = {}
    for number, (name, weight) in enumerate(weights.items()):
        mine = {split: facts["source"] == number for split, (facts, _) in by_split.items()}
        taken = {split: by_split[split][0][mine[split] & by_split[split][1]] for split in SPLITS}
        left = {split: by_split[split][0][mine[split] & ~by_split[split][1]] for split in SPLITS}
        made[name] = ShardsSource(
            weight,
            {split: int(taken[split]["tokens"].sum(dtype=np.int64)) for split in SPLITS},
            {split: len(taken[split]) for split in SPLITS},
            {split: int(taken[split]["bytes"].sum(dtype=np.int64)) for split in SPLITS},
            {split: len(left[split]) for split in SPLITS},
            {split: int(left[split]["bytes"].sum(dtype=np.int64)) for split in SPLITS},
        )
    return made

"""How token ids are laid out on disk, and how many workers lay them. Needs the standard library alone."""

from dataclasses import dataclass

MAX_LOOKAHEAD = 64
"""Tokens kept free behind the last window. A window's targets reach n tokens past it; with a constant in place
of n, models of any n up to it read the same windows in the same order."""


@dataclass(frozen=True)
class ShardsConfig:
    """The layout of the shards."""

    shard_tokens: int = 4_000_000
    """A shard ends with the document that brings it to this many tokens."""

    def __post_init__(self) -> None:
        if self.shard_tokens < 1:
            raise ValueError(f"shard_tokens is {self.shard_tokens}; it must be at least 1")


@dataclass(frozen=True)
class DataExecution:
    """How `tokenize` is run; nothing of it changes a byte of the result."""

    workers: int | None = None
    """Processes that tokenize at a time, a core each. None: as many as the cluster has cores."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers is {self.workers}; it must be at least 1, or null")

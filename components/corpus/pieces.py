"""What passes between listing, reading and writing: pieces of a source, raw documents, and what is left out."""

from dataclasses import dataclass

from components.corpus.filters import Refusal


@dataclass(frozen=True, slots=True)
class Piece:
    """What is read without a look at anything else: a file, or a part of a table."""

    id: str
    """Of the file."""
    group: str
    path: str
    """As `listing.open_file` takes it; bytes of the name that are not UTF-8 are surrogates."""
    bytes: int
    """About how much text it holds."""
    span: tuple[int, int] | None = None
    """Where in the file: (first byte, byte behind the last) of jsonl, (row group, its first row) of parquet."""

    @property
    def name(self) -> str:
        """Unique among the pieces of a source."""
        return self.id if self.span is None else f"{self.id}:{self.span[0]}-{self.span[1]}"


@dataclass(frozen=True, slots=True)
class Raw:
    """A document before the filters."""

    id: str
    group: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Skipped:
    """What is left out, and why."""

    id: str
    refusal: Refusal


class SourceFault(ValueError):
    """A source cannot be read as it was asked for: a column that is not there, a package that is missing."""

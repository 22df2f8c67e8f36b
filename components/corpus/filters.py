"""What makes a file a document: the filters, one document at a time, each refusal with its reason."""

from dataclasses import dataclass

from components.corpus.config import CorpusConfig

REASONS = {
    "unreadable": "check the permissions",
    "broken file": "cut short, damaged, or not of the kind that was asked for",
    "broken row": "jsonl has one JSON object a line",
    "other format": "parquet reads .parquet, jsonl reads .jsonl and .ndjson, also with .gz or .zst",
    "no prose": "prose takes English sentences; for text as it stands there, source: files",
    "no text": "the text column is empty there",
    "repeated id": "id_column must name rows",
    "not a regular file": "links to nothing, pipes and devices cannot be read",
    "licence": "see licences",
    "vendored": "see vendored_folders",
    "empty": "nothing but white space",
    "binary": "only text is taken",
    "not UTF-8": "convert the files to UTF-8",
    "too small": "lower min_bytes",
    "too large": "raise max_bytes_per_document",
    "line too long": "raise max_line_length",
    "long lines on average": "raise max_mean_line_length",
    "few letters and digits": "lower min_alphanumeric_share",
    "many digits": "raise max_digit_share",
    "duplicate": "the same text is there already",
    "near duplicate": "raise near_duplicates",
    "outside the subset": "raise max_bytes",
}
"""Why a document may be left out, and what to change about it."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A document left out, and why."""

    reason: str
    """One of REASONS."""
    detail: str


def size_refusal(n_bytes: int, config: CorpusConfig) -> Refusal | None:
    """What the size alone tells, before the file is read."""
    if n_bytes == 0:
        return Refusal("empty", "0 bytes")
    if n_bytes < config.min_bytes:
        return Refusal("too small", f"{n_bytes} bytes")
    if n_bytes > config.max_bytes_per_document:
        return Refusal("too large", f"{n_bytes} bytes")
    return None


def read_text(data: bytes, config: CorpusConfig) -> str | Refusal:
    """The text of a file, exactly as it stands there, or why it is not a document."""
    if b"\0" in data:
        return Refusal("binary", f"NUL byte at offset {data.index(0)}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        return Refusal("not UTF-8", f"byte 0x{data[error.start]:02x} at offset {error.start}")
    compact = "".join(text.split())
    if not compact:
        return Refusal("empty", "white space only")
    if (by_size := size_refusal(len(data), config)) is not None:
        return by_size
    lengths = [len(line) for line in text.splitlines()]
    if max(lengths) > config.max_line_length:
        return Refusal("line too long", f"{max(lengths)} characters in line {lengths.index(max(lengths)) + 1}")
    if (mean := sum(lengths) / len(lengths)) > config.max_mean_line_length:
        return Refusal("long lines on average", f"{mean:.0f} characters")
    share = sum(map(str.isalnum, compact)) / len(compact)
    if share < config.min_alphanumeric_share:
        return Refusal("few letters and digits", f"share {share:.3f}")
    digits = sum(map(str.isdigit, compact)) / len(compact)
    if digits > config.max_digit_share:
        return Refusal("many digits", f"share {digits:.3f}")
    return text

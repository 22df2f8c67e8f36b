"""What to collect, what to leave out, how to split. Needs the standard library alone."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

from components.corpus.licence_names import OTHERS, PERMISSIVE

Source = Literal["python", "prose", "files", "parquet", "jsonl"]


@dataclass(frozen=True)
class SourceConfig:
    """Where documents come from."""

    source: Source = "python"
    """`python`: the interpreter's standard library and the installed packages. `prose`: the English sentences of their
    docstrings and descriptions, or of the documentation under `path`. `files`: any text under `path`, a document a
    file. `parquet`, `jsonl`: tables under `path`, a document a row."""
    path: str | None = None
    """A folder, a file or a glob such as `/data/code/**/*.py`, here or as the URI of any filesystem that pyarrow
    opens: `s3://bucket/folder?region=eu-west-1`, `gs://…`, `hdfs://…`. It may be missing in a plan, not in a run."""
    text_column: str = "text"
    """For tables: the column that holds the text."""
    id_column: str | None = None
    """For tables: the column that names a row. None: file and row (in jsonl, the byte at which its line begins)."""
    group_column: str | None = None
    """For tables: the column by which rows are kept in one split, such as the repository. None: the file."""
    licences: tuple[str, ...] | None = None
    """For `python` and `prose`: SPDX names of the licences to take, such as `[MIT, BSD-3-Clause]`, or `[permissive]`
    for those that ask for no more than their text and the authors' names. By the metadata of the packages (the
    standard library: PSF-2.0); what it does not tell is dropped. None: take all."""

    def source_faults(self) -> list[str]:
        """What contradicts itself, a sentence each that begins with the field."""
        faults = []
        if self.source not in get_args(Source):
            faults.append(f"source is {self.source!r}; it must be one of {', '.join(map(repr, get_args(Source)))}")
        if self.source == "python" and self.path is not None:
            faults.append(
                f"path is {self.path!r} with source 'python'; a path needs source: files, prose, parquet or jsonl"
            )
        if self.source not in ("parquet", "jsonl"):
            for field in ("text_column", "id_column", "group_column"):
                if getattr(self, field) != getattr(SourceConfig, field):
                    faults.append(
                        f"{field} is {getattr(self, field)!r} with source {self.source!r}; only parquet and jsonl "
                        "have columns"
                    )
        if self.licences is not None and (self.source not in ("python", "prose") or self.path is not None):
            faults.append(f"licences is {list(self.licences)}; only installed packages (no path) tell licences")
        unknown = sorted({*(self.licences or ())} - {"permissive", *PERMISSIVE, *OTHERS})
        if unknown or self.licences == ():
            faults.append(
                f"licences is {list(self.licences or ())}; {', '.join(unknown) or 'an empty list'} is none of "
                f"permissive, {', '.join(sorted(PERMISSIVE | OTHERS))}"
            )
        return faults


@dataclass(frozen=True)
class PartConfig(SourceConfig):
    """One source of a mixture."""

    weight: float = 1.0
    """How many of the tokens come from here, relative to the weights of the other parts."""

    def __post_init__(self) -> None:
        faults = self.source_faults()
        if self.weight <= 0:
            faults.append(f"weight is {self.weight}; it must be above 0")
        if faults:
            raise ValueError("\n".join(faults))


@dataclass(frozen=True)
class CorpusConfig(SourceConfig):
    """Which documents become the corpus."""

    mixture: Mapping[str, PartConfig] = dataclasses.field(default_factory=dict)
    """Several sources in one corpus, each under a name of yours with the fields above and a `weight`:
    `{code: {source: python, weight: 3}, text: {source: files, path: /data, weight: 1}}`. The weights are shares of
    the tokens, in every split: no document is repeated, so the scarcest part decides how much there is of the others.
    The fields above then belong to the parts; those below are common. Empty: one source."""
    min_bytes: int = 200
    """Documents with fewer bytes are dropped."""
    max_bytes_per_document: int = 1_000_000
    """Documents with more bytes are dropped."""
    max_line_length: int = 1000
    """Documents with a longer line, in characters, are dropped: data and minified code."""
    max_mean_line_length: float = 100.0
    """Documents whose lines are longer on average, in characters, are dropped."""
    min_alphanumeric_share: float = 0.25
    """Documents with a smaller share of letters and digits among the characters that are not white space are
    dropped."""
    max_digit_share: float = 0.3
    """Documents with a larger share of digits among the characters that are not white space are dropped: tables of
    numbers, of which a single package can hold enough to decide a held-out split's bits per byte."""
    vendored_folders: tuple[str, ...] = (
        "_vendor",
        "_vendored",
        "vendor",
        "vendored",
        "third_party",
        "thirdparty",
        "thirdparty_files",
        "3rdparty",
        "extern",
        "_extern",
        "node_modules",
    )
    """Folders of copies of other people's code, by name at any depth: what is in them is dropped."""
    near_duplicates: float | None = None
    """Documents at least this alike to an earlier one in id order are dropped: Jaccard similarity, 0 to 1, of their
    runs of five words, estimated by MinHash. 0.8 is usual. Needs the extra `dedup`. None: equal texts alone are."""
    validation_share: float = 0.05
    """Share of the bytes that goes to the validation split."""
    test_share: float = 0.05
    """Share of the bytes that goes to the test split."""
    max_bytes: int | None = None
    """Keep about this many bytes of text: a subset of the documents chosen by hash, of a mixture's parts by their
    weights. None: keep all."""
    seed: int = 0
    """Chooses the subset and the split."""

    def __post_init__(self) -> None:
        faults = self.source_faults() if not self.mixture else _mixture_faults(self, self.mixture)
        for field in ("min_bytes", "max_bytes_per_document", "max_line_length"):
            if getattr(self, field) < 1:
                faults.append(f"{field} is {getattr(self, field)}; it must be at least 1")
        if self.max_bytes_per_document < self.min_bytes:
            faults.append(
                f"max_bytes_per_document is {self.max_bytes_per_document}; it must be at least min_bytes "
                f"({self.min_bytes})"
            )
        if self.max_mean_line_length <= 0:
            faults.append(f"max_mean_line_length is {self.max_mean_line_length}; it must be above 0")
        for field in ("min_alphanumeric_share", "max_digit_share"):
            if not 0 <= getattr(self, field) <= 1:
                faults.append(f"{field} is {getattr(self, field)}; it must lie between 0 and 1")
        for field in ("validation_share", "test_share"):
            if not 0 < getattr(self, field) <= 0.4:
                faults.append(f"{field} is {getattr(self, field)}; it must be above 0 and at most 0.4")
        if self.near_duplicates is not None and not 0 < self.near_duplicates <= 1:
            faults.append(f"near_duplicates is {self.near_duplicates}; it must be above 0 and at most 1, or null")
        if self.max_bytes is not None and self.max_bytes < max(1, self.min_bytes):
            faults.append(
                f"max_bytes is {self.max_bytes}; it must be at least min_bytes ({self.min_bytes}), or null to keep all"
            )
        if faults:
            raise ValueError("\n".join(faults))

    def parts(self) -> "dict[str, CorpusConfig]":
        """What to collect from each source, by its name: the common fields with the source's own."""
        if not self.mixture:
            return {self.source: self}
        total = sum(part.weight for part in self.mixture.values())
        parts = {}
        for name, part in self.mixture.items():
            own = {f.name: getattr(part, f.name) for f in fields(SourceConfig)}
            max_bytes = (
                None if self.max_bytes is None else max(self.min_bytes, round(self.max_bytes * part.weight / total))
            )
            parts[name] = replace(self, mixture={}, max_bytes=max_bytes, **own)
        return parts

    def weights(self) -> dict[str, float]:
        """The share of the tokens that each source is to have."""
        if not self.mixture:
            return {self.source: 1.0}
        total = sum(part.weight for part in self.mixture.values())
        return {name: part.weight / total for name, part in self.mixture.items()}


def _mixture_faults(config: CorpusConfig, mixture: Mapping[str, PartConfig]) -> list[str]:
    faults = []
    for own in fields(SourceConfig):
        if own.name != "source" and getattr(config, own.name) != own.default:
            faults.append(
                f"{own.name} is {getattr(config, own.name)!r} beside a mixture; give it to a part, "
                f"mixture.NAME.{own.name}"
            )
    if len(mixture) < 2:
        faults.append(f"mixture has {len(mixture)} part(s); it needs two or more, or none for one source")
    for name in mixture:
        if not re.fullmatch(r"[A-Za-z][\w-]*", name):
            faults.append(f"mixture has a part {name!r}; a name is a letter and then letters, digits, '_' and '-'")
    return faults


@dataclass(frozen=True)
class PairsConfig:
    """Which pairs of prompt and completion a model is fine-tuned on."""

    source: Literal["functions", "table"] = "functions"
    """`functions`: those of the corpus, signature and docstring as the prompt, the rest of the body as the completion.
    `table`: rows of given files, in the splits that they come in."""
    path: str | None = None
    """For `table`: a folder or URI with parquet or jsonl files (.gz too) that are named by their split, such as
    `train.jsonl`, `validation-00000-of-00001.parquet` or `test/part-1.parquet`. It may be missing in a plan, not in a
    run."""
    prompt_column: str = "prompt"
    """For `table`: the column of text that is given to the model."""
    completion_column: str = "completion"
    """For `table`: the column of text that it shall write."""
    max_prompt_characters: int | None = 600
    """Pairs with a longer prompt are left out. None: no limit."""
    min_completion_characters: int = 20
    """Pairs with a shorter completion are left out."""
    max_completion_characters: int | None = 800
    """Pairs with a longer completion are left out. None: no limit."""
    max_pairs: int | None = 4000
    """Training pairs at most, from documents (or rows) in an order given by hash. None: all."""
    max_pairs_held_out: int | None = 500
    """Pairs at most in validation and in test each. None: all."""
    seed: int = 0
    """Chooses which documents or rows come first where there are more pairs than asked for."""

    def __post_init__(self) -> None:
        faults = []
        if self.source not in ("functions", "table"):
            faults.append(f"source is {self.source!r}; it must be 'functions' or 'table'")
        if self.source == "functions" and self.path is not None:
            faults.append(f"path is {self.path!r} with source 'functions'; a path needs source: table")
        for field in ("prompt_column", "completion_column"):
            if not getattr(self, field):
                faults.append(f"{field} is empty; it names a column, such as 'prompt'")
        if self.prompt_column == self.completion_column:
            faults.append(f"completion_column is {self.completion_column!r}, as is prompt_column; they must differ")
        if self.min_completion_characters < 1:
            faults.append(f"min_completion_characters is {self.min_completion_characters}; it must be at least 1")
        for field in ("max_prompt_characters", "max_completion_characters"):
            value = getattr(self, field)
            if value is not None and value < 1:
                faults.append(f"{field} is {value}; it must be at least 1, or null for no limit")
        if (
            self.max_completion_characters is not None
            and self.max_completion_characters < self.min_completion_characters
        ):
            faults.append(
                f"max_completion_characters is {self.max_completion_characters}; it must be at least "
                f"min_completion_characters ({self.min_completion_characters})"
            )
        for field in ("max_pairs", "max_pairs_held_out"):
            value = getattr(self, field)
            if value is not None and value < 1:
                faults.append(f"{field} is {value}; it must be at least 1, or null for all")
        if faults:
            raise ValueError("\n".join(faults))

    def limits(self) -> str:
        """The limits on lengths, in words."""
        prompt = (
            "of any number of" if self.max_prompt_characters is None else f"of at most {self.max_prompt_characters}"
        )
        longest = self.max_completion_characters
        upto = " or more" if longest is None else f" to {longest}"
        return f"a prompt {prompt} characters and a completion of {self.min_completion_characters}{upto}"

    def fits(self, prompt: str, completion: str) -> bool:
        """Whether a pair's lengths are within the limits."""
        longest = self.max_completion_characters
        return (self.max_prompt_characters is None or len(prompt) <= self.max_prompt_characters) and (
            self.min_completion_characters <= len(completion) and (longest is None or len(completion) <= longest)
        )

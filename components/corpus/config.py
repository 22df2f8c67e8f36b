"""What to collect, what to leave out, how to split. Needs the standard library alone."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class CorpusConfig:
    """Which documents become the corpus."""

    source: Literal["python", "files"] = "python"
    """`python`: the interpreter's standard library and the installed packages. `files`: any text under `path`."""
    path: str | None = None
    """For `files`: a folder, or a glob such as `/data/code/**/*.py`. It may be missing in a plan, not in a run."""
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
    validation_share: float = 0.05
    """Share of the bytes that goes to the validation split."""
    test_share: float = 0.05
    """Share of the bytes that goes to the test split."""
    max_bytes: int | None = None
    """Keep about this many bytes of text: a subset of the documents chosen by hash. None: keep all."""
    seed: int = 0
    """Chooses the subset and the split."""

    def __post_init__(self) -> None:
        faults = []
        if self.source not in ("python", "files"):
            faults.append(f"source is {self.source!r}; it must be 'python' or 'files'")
        if self.source == "python" and self.path is not None:
            faults.append(f"path is {self.path!r} with source 'python'; a path needs source: files")
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
        if self.max_bytes is not None and self.max_bytes < 1:
            faults.append(f"max_bytes is {self.max_bytes}; it must be at least 1, or null to keep all")
        if faults:
            raise ValueError("\n".join(faults))


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

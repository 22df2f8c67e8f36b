"""What passes between stations: small frozen records that say where the data is and the few facts others need.

Every artifact has `path`, the directory that holds it, and `digest`, a hash of its canonical content: two
artifacts with equal digests are interchangeable, whatever machine, time or worker count made them.
A reader of an artifact needs this file and the layout described here, never the code that wrote it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class CorpusSource:
    """One of the sources of a corpus."""

    weight: float
    """Share of the tokens that it is to have."""
    documents: Mapping[str, int]
    """Documents per split."""
    text_bytes: Mapping[str, int]
    """UTF-8 bytes of text per split."""


@dataclass(frozen=True)
class Corpus:
    """Cleaned, deduplicated documents in three splits.

    Layout: `<split>/part-NNNNN.parquet` with columns `id` (readable, unique; in a mixture it begins with the name of
    the source and `/`), `group`, `text`, `source`, in id order;
    `dropped.jsonl`, one `{"id", "reason", "detail"}` per document left out; `summary.json` for people.
    """

    path: Path
    digest: str
    documents: Mapping[str, int]
    """Documents per split."""
    text_bytes: Mapping[str, int]
    """UTF-8 bytes of text per split."""
    dropped: Mapping[str, int]
    """Documents left out, by reason."""
    sources: Mapping[str, CorpusSource] = field(default_factory=dict)
    """By name: one, or the parts of a mixture."""


@dataclass(frozen=True)
class Pairs:
    """Prompts with their completions, for fine-tuning.

    Layout: `<split>.parquet` with columns `id`, `prompt`, `completion`, in id order.
    """

    path: Path
    digest: str
    pairs: Mapping[str, int]
    """Pairs per split."""


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer that `components.tokenizer.codec.load_tokenizer(path)` reads.

    Layout: `tokenizer.json` (kind and facts) and, for sentencepiece, `tokenizer.model`.
    """

    path: Path
    digest: str
    kind: str
    """`sentencepiece` or `bytes`."""
    vocabulary_size: int
    bytes_per_token: float
    """On the validation split."""
    round_trip_failures: int
    """Validation documents d with decode(encode(d)) != d."""
    round_trip_documents: int
    """Validation documents tried."""


@dataclass(frozen=True)
class ShardsSource:
    """One part of a mixture, as it came into the shards and as it was left out for the mixture's sake."""

    weight: float
    """Share of the tokens asked for."""
    tokens: Mapping[str, int]
    """Tokens per split."""
    documents: Mapping[str, int]
    text_bytes: Mapping[str, int]
    documents_left_out: Mapping[str, int]
    text_bytes_left_out: Mapping[str, int]


@dataclass(frozen=True)
class Shards:
    """Token ids of every split, ready to be memory-mapped.

    Layout: `<split>/shard-NNNNN.arrow` (Arrow IPC file, one record batch, one unsigned column `tokens`),
    `shards.json` (per shard: file, split, tokens, documents, sha256), and `tokenizer/`, a copy of the tokenizer.
    Read them with `components.shards.reader`.
    """

    path: Path
    digest: str
    vocabulary_size: int
    tokens: Mapping[str, int]
    """Tokens per split, document marks included."""
    documents: Mapping[str, int]
    text_bytes: Mapping[str, int]
    """UTF-8 bytes that the tokens of a split stand for."""
    sources: Mapping[str, ShardsSource] = field(default_factory=dict)
    """The parts of a mixture by name; empty for a corpus of one source."""


@dataclass(frozen=True)
class Checkpoint:
    """A trained model, usable by itself.

    Layout: `model.safetensors`, `model.json` (the ModelConfig), `tokenizer/` (a copy), `metrics.jsonl` (one JSON
    object per logged step), `trace.json.gz` (`training/trace.py`) where one was asked for. Load with
    `components.model.load_model(path)`.
    """

    path: Path
    digest: str
    n_future_tokens: int
    parameters: int
    steps: int
    tokens: int
    """Tokens seen in training."""
    training_flops: float
    training_seconds: float
    """Time in training steps, over all attempts; start-up and checkpoints aside. Other trainings may run beside it."""
    training_threads: int
    """CPU threads of all workers together in the last attempt: times of different numbers do not compare."""
    n_pretrained: int | None = None
    """For a fine-tuned model: n_future_tokens of the model it started from."""


@dataclass(frozen=True)
class HeadScore:
    """One prediction head on held-out text; index 0 is the next-token head."""

    loss: float
    """Mean cross entropy in nats per token."""
    top1: float
    """Share of targets that are the head's first choice."""


@dataclass(frozen=True)
class CompletionScore:
    """Generated text against the true text."""

    exact_match: float
    edit_similarity: float
    """Mean of the Levenshtein ratio in [0, 1]."""
    items: int


@dataclass(frozen=True)
class Evaluation:
    """Held-out scores of one model. Layout: `evaluation.json` (this record), `completions.jsonl` (samples),
    `windows.json` (of a pretrained model: [bits, bytes] of every held-out window, the same windows for every n)."""

    path: Path
    digest: str
    n_future_tokens: int
    heads: tuple[HeadScore, ...]
    tokens: int
    """Targets scored per head."""
    bits_per_byte: float
    line_completion: CompletionScore | None = None
    """For pretrained models: the rest of a line."""
    n_pretrained: int | None = None
    """For fine-tuned models: n_future_tokens of the model it started from."""
    body_completion: CompletionScore | None = None
    """For fine-tuned models: the function's body; `heads[0].loss` is then the loss on body tokens."""


@dataclass(frozen=True)
class DecodingRow:
    """One arm of the decoding benchmark: k heads at one batch size and dtype."""

    n_future_tokens: int
    k: int
    """Heads used: 1 is next-token decoding."""
    batch: int
    dtype: str
    tokens_per_forward: float
    """E: tokens emitted per step and sequence in generation, the verified one included."""
    tokens_per_forward_heldout: float
    """E that the same heads would have on held-out text under teacher forcing."""
    repeated_4grams: float
    """Share of 4-grams in what was generated that occurred earlier in the same sequence."""
    r: float
    """Median time of a step over that of a next-token step."""
    speedup: float
    """Median over repeats of tokens/s over the next-token arm's tokens/s in the same repeat."""
    speedup_low: float
    speedup_high: float
    """Lowest and highest repeat."""
    tokens_per_second: float
    acceptance: tuple[float, ...]
    """acceptance[j]: share of steps that accepted at least j + 1 drafted tokens."""
    lossless: bool
    """Token for token equal to next-token decoding, and in float32 to a cache-free full forward."""
    row_seconds: float = float("nan")
    """Median over prompts of the time from the beginning of its reading to its last token."""


@dataclass(frozen=True)
class DecodingBenchmark:
    """Self-speculative against next-token decoding. Layout: `decoding.json` and `samples.json`.

    samples.json: a list of {"prompt": text, "k": heads used, "runs": [{"text": …, "tokens": count}, …]}, a run being
    what one forward emitted.
    """

    path: Path
    digest: str
    n_future_tokens: int
    rows: tuple[DecodingRow, ...]
    adaptive: tuple[DecodingRow, ...] = ()
    """Per batch size, the number of heads chosen while running; `k` is the most it may choose."""


@dataclass(frozen=True)
class Cell:
    """One training of a grid and what it reached. Layout: `cell.json` (this record), `metrics.jsonl` (one JSON object
    per logged step, `score/…` among them where the test was taken), `model.safetensors` and `model.json`."""

    path: Path
    digest: str
    n_future_tokens: int
    seed: int
    parameters: int
    """All, embeddings included."""
    tokens: int
    """Positions trained on, what fills a row behind its last example included."""
    flops: float
    """Of training, by counting."""
    seconds: float
    """Time in training steps, over all attempts, that in which steps are compiled included; the test and start-up
    aside."""
    overhead_seconds: float
    """From the stage's start to its end what was neither in training steps nor in the test: imports where the process
    is a new one, checkpoints, files; of the last attempt."""
    metrics: Mapping[str, float]
    """The test at the end of training, by name."""
    items: Mapping[str, int]
    """What each metric is of: examples that are right or not as a whole, or single tokens."""


@dataclass(frozen=True)
class Stories:
    """A corpus's test stories with their names replaced by made-up ones. Layout: `stories.jsonl`, one `{"text",
    "tokens", "counted"}` a story, the last being the places of the tokens that are scored."""

    path: Path
    digest: str
    stories: int
    scored_tokens: int


@dataclass(frozen=True)
class Report:
    """The page and its numbers. Layout: `index.html` (self-contained), `results.json`."""

    path: Path
    digest: str
    headline: Mapping[str, float]
    """The few numbers worth a line in the terminal and a column in MLflow."""

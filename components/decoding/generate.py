"""`generate(...)`: text or tokens from a trained model, for notebooks, servers and scripts.

    from components.decoding.generate import generate, open_checkpoint

    made = generate("runs/latest/pretrain-n4", "def fib(n):", max_new_tokens=64)
    print(made[0].text, made.statistics.tokens_per_forward)

A server opens the checkpoint once, and passes what it gets wherever a path may stand. More in README.md beside this
file.
"""

import codecs
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, overload

import torch

from components.decoding.engine import Decoder
from components.decoding.loop import Generation
from components.decoding.sampling import Sampling
from components.model.transformer import MultiTokenTransformer
from components.model.weights import load_model, trained_context

OnText = Callable[[int, str, int], None]
"""(prompt's number, text, tokens): called as text comes, with the tokens that one forward emitted for it."""


class Tokenizer(Protocol):
    """What is used of a tokenizer; those of `components.tokenizer.codec` have it."""

    @property
    def bos_id(self) -> int: ...

    @property
    def eos_id(self) -> int: ...

    def encode(self, text: str) -> list[int]: ...

    def decode_bytes(self, ids: Sequence[int]) -> bytes: ...


@dataclass(frozen=True)
class Opened:
    """A model ready to generate, with its tokenizer if it has one."""

    decoder: Decoder
    tokenizer: Tokenizer | None = None
    context_length: int | None = None
    """Tokens of the sequences it was trained on; None: not known, and nothing is refused for being longer."""


@dataclass(frozen=True)
class Completion:
    """What followed one prompt."""

    tokens: list[int]
    """New tokens, the one that ended it included."""
    text: str
    """Their text up to the stop string or end mark; empty without a tokenizer."""
    ended: Literal["limit", "end", "stop"]
    """`max_new_tokens` reached; the tokenizer's end mark; one of the stop strings or tokens."""
    runs: list[int]
    """Tokens that came of one forward each; the first is the prompt's own."""
    seconds: float
    """From the call to the last token."""


@dataclass(frozen=True)
class Statistics:
    """What generating took, over all prompts."""

    tokens: int
    tokens_per_forward: float
    """E: tokens per step and sequence, prompts' own passes aside; next-token decoding has 1."""
    tokens_per_second: float
    """Of decoding, reading the prompts aside; 0 without a step."""
    accepted: tuple[int, ...]
    """Entry m: steps of a sequence that accepted m drafts."""
    acceptance: tuple[float, ...]
    """Entry j: of the drafts at place j + 1 that were reached, all before them being right, the share accepted."""
    steps: int
    prefill_seconds: float
    decode_seconds: float


@dataclass(frozen=True)
class Generated(Sequence[Completion]):
    """One completion per prompt, in order, and statistics."""

    completions: tuple[Completion, ...]
    statistics: Statistics

    @overload
    def __getitem__(self, index: int) -> Completion: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Completion]: ...

    def __getitem__(self, index: Any) -> Any:
        return self.completions[index]

    def __len__(self) -> int:
        return len(self.completions)

    def __iter__(self) -> Iterator[Completion]:
        return iter(self.completions)


def open_checkpoint(
    checkpoint: Path | str,
    dtype: torch.dtype = torch.float32,
    row_invariant: bool | None = None,
    draft_vocabulary: Sequence[int] | None = None,
    device: str | None = None,
) -> Opened:
    """Load a checkpoint and its tokenizer. dtype: bfloat16 is about twice as fast where a model is larger than the
    processor's caches. device: None takes a GPU if there is one. The others as `Decoder` has them.

    FileNotFoundError, ValueError: the directory is no checkpoint, or damaged. Nothing in it is unpickled.
    """
    from components.tokenizer.codec import load_tokenizer

    directory = Path(checkpoint)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(directory, device)
    return Opened(
        Decoder(model, dtype, row_invariant, draft_vocabulary),
        load_tokenizer(directory / "tokenizer"),
        trained_context(directory),
    )


def generate(
    model: Path | str | Opened | Decoder | MultiTokenTransformer,
    prompts: str | Sequence[str] | Sequence[Sequence[int]],
    max_new_tokens: int | Sequence[int] = 128,
    k: int | Literal["adaptive"] | None = None,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    stop: str | Sequence[str] = (),
    stop_ids: Sequence[int] = (),
    batch: int | None = None,
    on_text: OnText | None = None,
    tokenizer: Tokenizer | None = None,
    sampling: Sequence[Sampling] | None = None,
) -> Generated:
    """Continue prompts, several tokens per forward where the model's further heads guess right.

    model: a checkpoint's path, what `open_checkpoint` returns, or a model or decoder in memory. prompts: one text,
    several, or lists of token ids; texts need a tokenizer, the checkpoint's or `tokenizer`, and begin with its BOS
    mark. k: prediction heads used: 1 is next-token decoding, "adaptive" measures while running which number pays.
    None: adaptive when greedy, as that changes nothing of what comes out, and all heads when sampled: there the
    distribution is the same whatever k, but the very draw of a seed is so for a fixed k alone. temperature, top_k,
    top_p: as `Sampling` has them; prompt i draws with `seed` + i. sampling: in their place, one `Sampling` per prompt.
    stop: strings at which a completion ends, looked for in the bytes that the
    tokenizer decodes to, wherever token borders lie; `stop_ids`: tokens, the end mark aside. batch: sequences decoded
    together (None: all); as some end, waiting ones take their place. on_text: streaming; text that may be the
    beginning of a stop string, and bytes of an unfinished character, are held back.
    ValueError: something is out of range, or the batch does not fit in memory.
    """
    opened = _opened(model, tokenizer)
    tokenizer = opened.tokenizer
    stops = tuple(text.encode() for text in ((stop,) if isinstance(stop, str) else stop))
    if any(not text for text in stops):
        raise ValueError("stop holds an empty string, which is everywhere; leave it out")
    if stops and tokenizer is None:
        raise ValueError("stop strings need a tokenizer; give tokenizer=…, or stop_ids")
    ids = _encoded(prompts, tokenizer, opened.context_length)
    samplings = sampling or [Sampling(temperature, top_k, top_p, _wrapped(seed + i)) for i in range(len(ids))]
    if k is None:
        heads = opened.decoder.config.n_future_tokens
        k = heads if any(each.temperature > 0 for each in samplings) else "adaptive"
    if on_text is not None and tokenizer is None:
        raise ValueError("on_text needs a tokenizer to make text; give tokenizer=…")
    ends = {*stop_ids} | ({tokenizer.eos_id} if tokenizer is not None else set())
    texts = [_Text(tokenizer, stops, set(stop_ids)) for _ in ids]

    def tell(new: Mapping[int, list[int]]) -> None:
        assert on_text is not None
        for row, tokens in new.items():
            text = texts[row]
            shown = text.read(tokens)
            if text.tokens == limits[row] or text.ended(tokens) != "limit":
                shown += text.rest()
            on_text(row, shown, len(tokens))

    limits = [max_new_tokens] * len(ids) if not isinstance(max_new_tokens, Sequence) else list(max_new_tokens)
    made = opened.decoder.generate(
        ids, max_new_tokens, k,
        stop_ids=ends,
        stop=(lambda row, tokens: texts[row].stops_with(tokens[-1])) if stops else None,
        on_step=tell if on_text is not None else None,
        sampling=samplings,
        batch=batch,
    )  # fmt: skip
    completions = []
    for row, (tokens, runs, seconds) in enumerate(zip(made.tokens, made.runs, made.finished_seconds, strict=True)):
        text = texts[row]
        completions.append(Completion(tokens, text.of(tokens), text.ended(tokens), runs, seconds))
    return Generated(tuple(completions), statistics_of(made))


def statistics_of(made: Generation) -> Statistics:
    """The figures of a generation."""
    counts = [0] * max((step.k for step in made.steps), default=1)
    reached, passed = [0] * (len(counts) - 1), [0] * (len(counts) - 1)
    for step in made.steps:
        for accepted in step.accepted:
            counts[accepted] += 1
            for place in range(min(accepted + 1, step.k - 1)):
                reached[place] += 1
                passed[place] += place < accepted
    tokens = sum(map(len, made.tokens))
    decoded = tokens - len(made.tokens)
    return Statistics(
        tokens=tokens,
        tokens_per_forward=made.tokens_per_forward,
        tokens_per_second=decoded / made.decode_seconds if made.decode_seconds else 0.0,
        accepted=tuple(counts),
        acceptance=tuple(p / r if r else 0.0 for p, r in zip(passed, reached, strict=True)),
        steps=len(made.steps),
        prefill_seconds=made.prefill_seconds,
        decode_seconds=made.decode_seconds,
    )


def _opened(model: Path | str | Opened | Decoder | MultiTokenTransformer, tokenizer: Tokenizer | None) -> Opened:
    if isinstance(model, Path | str):
        model = open_checkpoint(model)
    elif isinstance(model, MultiTokenTransformer):
        model = Opened(Decoder(model, model.embedding.weight.dtype))
    elif isinstance(model, Decoder):
        model = Opened(model)
    return Opened(model.decoder, tokenizer or model.tokenizer, model.context_length)


def _encoded(
    prompts: str | Sequence[str] | Sequence[Sequence[int]], tokenizer: Tokenizer | None, context: int | None
) -> list[list[int]]:
    listed: list[str | Sequence[int]] = [prompts] if isinstance(prompts, str) else list(prompts)
    if any(not isinstance(prompt, str) and not hasattr(prompt, "__len__") for prompt in listed):
        raise ValueError(f"prompts is {prompts!r}; give a text, several, or a list of lists of token ids")
    ids: list[list[int]] = []
    for row, prompt in enumerate(listed):
        if isinstance(prompt, str):
            if tokenizer is None:
                raise ValueError(f"prompt {row} is a text, and this model has no tokenizer; give tokenizer=…, or ids")
            ids.append([tokenizer.bos_id, *tokenizer.encode(prompt)])
        else:
            try:
                ids.append([operator.index(token) for token in prompt])
            except TypeError as error:
                raise ValueError(f"prompt {row}: token ids must be whole numbers ({error})") from None
        if context is not None and len(ids[-1]) >= context:
            raise ValueError(
                f"prompt {row} has {len(ids[-1])} tokens, and the model was trained on sequences of {context}; give "
                f"it at most {context - 1}, such as the last ones"
            )
    return ids


def _wrapped(seed: int) -> int:
    """A seed as 64 bits with a sign."""
    return (seed + (1 << 63)) % (1 << 64) - (1 << 63)


class _Text:
    """The text of one completion as its tokens come."""

    def __init__(self, tokenizer: Tokenizer | None, stops: tuple[bytes, ...], stop_ids: set[int]) -> None:
        self._tokenizer, self._stops, self._stop_ids = tokenizer, stops, stop_ids
        self._looked_at = b""  # as far as a stop string may still begin in it
        self._stopped = False
        self._told = b""
        self._bytes = b""
        self.tokens = 0
        """Tokens read so far."""
        self._reader = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def stops_with(self, token: int) -> bool:
        """Whether a stop string ends with, or within, this next token."""
        assert self._tokenizer is not None
        self._looked_at += self._tokenizer.decode_bytes([token])
        self._stopped = any(stop in self._looked_at for stop in self._stops)
        longest = max(map(len, self._stops))
        self._looked_at = self._looked_at[-longest:]
        return self._stopped

    def of(self, tokens: Sequence[int]) -> str:
        """All of it."""
        if self._tokenizer is None:
            return ""
        return self._cut(self._tokenizer.decode_bytes(tokens)).decode("utf-8", errors="replace")

    def _cut(self, content: bytes) -> bytes:
        """Up to the first stop string."""
        places = [place for stop in self._stops if (place := content.find(stop)) >= 0]
        return content[: min(places)] if places else content

    def read(self, tokens: Sequence[int]) -> str:
        """What may be shown after these next tokens."""
        assert self._tokenizer is not None
        self.tokens += len(tokens)
        self._bytes += self._tokenizer.decode_bytes(tokens)
        shown = self._cut(self._bytes)
        if len(shown) == len(self._bytes):  # its end may be a stop string's beginning
            beginnings = [n for stop in self._stops for n in range(1, len(stop)) if shown.endswith(stop[:n])]
            shown = shown[: len(shown) - max(beginnings, default=0)]
        new, self._told = shown[len(self._told) :], shown
        return self._reader.decode(new)

    def rest(self) -> str:
        """What was held back and turned out to be text."""
        shown = self._cut(self._bytes)
        return self._reader.decode(shown[len(self._told) :], final=True)

    def ended(self, tokens: Sequence[int]) -> Literal["limit", "end", "stop"]:
        if self._stopped or tokens[-1] in self._stop_ids:
            return "stop"
        return "end" if self._tokenizer is not None and tokens[-1] == self._tokenizer.eos_id else "limit"

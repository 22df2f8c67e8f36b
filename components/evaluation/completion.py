"""The rest of a line: cut documents inside a line of code and let the model finish it."""

import hashlib
import heapq
import io
import re
import tokenize
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from components.artifacts import CompletionScore
from components.evaluation.similarity import edit_similarity
from components.tokenizer.codec import Codec

LEAST_BEFORE, LEAST_AFTER = 4, 4
"""Characters of the line that must stand before and after the cut, indentation and trailing blanks aside."""
LONGEST_LINE = 200
LONGEST_TOKEN = 16
"""Characters of a token, generously: bounds how much text is encoded for a context."""
PROMPT_SHOWN = 240
"""Characters of the context kept beside a completion, for people."""
COMMENT = re.compile(r"#|//|/\*|\*|--|;|%|\"\"\"|'''")

Generate = Callable[[Sequence[Sequence[int]], int, frozenset[int]], list[list[int]]]
"""(prompts, max_new_tokens, stop_ids) -> new tokens of every prompt, greedy."""


@dataclass(frozen=True)
class LineItem:
    """A document cut inside a line."""

    id: str
    context: str
    """Everything before the cut."""
    rest: str
    """The true rest of the line, without the newline and blanks at its ends."""


@dataclass(frozen=True)
class Completed:
    """What a model made of an item."""

    id: str
    prompt: str
    truth: str
    generated: str
    similarity: float


def lines_worth_completing(text: str) -> list[int]:
    """Numbers (from 0) of lines with code to complete: long enough, not comment, not inside a docstring or another
    string over several lines. What Python's tokenizer cannot read is judged by how its lines begin."""
    lines = text.split("\n")
    outside = set(range(len(lines)))
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.STRING and token.end[0] > token.start[0]:
                outside.difference_update(range(token.start[0] - 1, token.end[0]))
    except (tokenize.TokenError, SyntaxError):
        pass
    return [
        number
        for number, line in enumerate(lines)
        if number in outside
        and LEAST_BEFORE + LEAST_AFTER <= len(line.strip()) <= LONGEST_LINE
        and not COMMENT.match(line.strip())
        and cuts(line)
    ]


def cuts(line: str) -> list[int]:
    """Offsets at which a line may be cut: after its indentation and LEAST_BEFORE characters, LEAST_AFTER before its
    end, not inside a word and not after a blank: places where tokens begin, so that no prompt ends in part of one.
    """
    first = len(line) - len(line.lstrip()) + LEAST_BEFORE
    last = len(line.rstrip()) - LEAST_AFTER
    return [
        i
        for i in range(first, last + 1)
        if not line[i - 1].isspace() and not (_in_word(line[i - 1]) and _in_word(line[i]))
    ]


def _in_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def choose_lines(documents: Iterable[tuple[str, str]], items: int, seed: int) -> list[LineItem]:
    """`items` cuts from (id, text) documents, as a function of the seed and the set of documents alone: one of each
    of the chosen documents, then a second of each while items are missing."""
    chosen = heapq.nsmallest(items, documents, key=lambda document: rank(seed, document[0]))
    queues: list[tuple[str, list[str], list[int], Random]] = []
    for name, text in chosen:
        text = text.replace("\r\n", "\n")
        random = Random(f"{seed}:{name}")
        candidates = lines_worth_completing(text)
        random.shuffle(candidates)
        queues.append((name, text.split("\n"), candidates, random))
    found: list[LineItem] = []
    while len(found) < items and any(candidates for _, _, candidates, _ in queues):
        for name, lines, candidates, random in queues:
            if candidates and len(found) < items:
                number = candidates.pop()
                line = lines[number]
                cut = random.choice(cuts(line))
                context = "\n".join([*lines[:number], line[:cut]])
                found.append(LineItem(f"{name}:{number + 1}", context, line[cut:].strip()))
    return found


def rank(seed: int, name: str) -> bytes:
    """A place in an order that depends on the seed and the name alone."""
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


def read_documents(corpus: Path, split: str) -> Iterator[tuple[str, str]]:
    """(id, text) of every document of a split, a file at a time."""
    import pyarrow.parquet

    for part in sorted((corpus / split).glob("*.parquet")):
        table = pyarrow.parquet.read_table(part, columns=["id", "text"])
        yield from zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True)


def mean_score(completed: Sequence[Completed]) -> CompletionScore | None:
    """Share of exact matches and mean similarity; None without items."""
    if not completed:
        return None
    exact = sum(item.generated == item.truth for item in completed)
    similar = sum(item.similarity for item in completed)
    return CompletionScore(exact / len(completed), similar / len(completed), len(completed))


def generate_in_batches(
    generate: Generate,
    prompts: Sequence[Sequence[int]],
    batch_size: int,
    max_new_tokens: int,
    stop_ids: frozenset[int],
) -> Iterator[tuple[int, list[int]]]:
    """(index of the prompt, its new tokens) for every prompt, prompts of like length together."""
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for first in range(0, len(order), batch_size):
        batch = order[first : first + batch_size]
        outputs = generate([prompts[index] for index in batch], max_new_tokens, stop_ids)
        yield from zip(batch, outputs, strict=True)


def completed(name: str, prompt: str, truth: str, generated: str) -> Completed:
    """Compare generated with true text, blanks at the ends aside."""
    generated, truth = generated.strip(), truth.strip()
    return Completed(name, prompt, truth, generated, edit_similarity(generated, truth))


def complete_lines(
    items: Sequence[LineItem],
    codec: Codec,
    generate: Generate,
    context_tokens: int,
    max_new_tokens: int,
    batch_size: int,
) -> Iterator[Completed]:
    """Let the model finish every line; generation stops at the first token that holds a newline."""
    stops = frozenset(token for token in range(codec.vocabulary_size) if b"\n" in codec.decode_bytes([token])) | {
        codec.eos_id
    }
    prompts = [context_of(codec, item.context, context_tokens) for item in items]
    for index, tokens in generate_in_batches(generate, prompts, batch_size, max_new_tokens, stops):
        item = items[index]
        text = codec.decode(tokens)
        tail = item.context[-PROMPT_SHOWN:]
        yield completed(item.id, tail, item.rest, text.split("\n")[0])


def context_of(codec: Codec, text: str, limit: int) -> list[int]:
    """The last `limit` tokens of the document's start mark and `text`. Only as much text is encoded as can matter."""
    enough = text[-limit * LONGEST_TOKEN :]
    start = [codec.bos_id] if len(enough) == len(text) else []
    return [*start, *codec.encode(enough)][-limit:]

"""Completions of prompts, such as a function's body after its signature, by a fine-tuned model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from components.evaluation.completion import (
    Completed,
    Generate,
    completed,
    generate_in_batches,
    rank,
)
from components.tokenizer.codec import Codec
from components.training.pairs import encode_pairs


@dataclass(frozen=True)
class Pair:
    """A prompt and its true completion as tokens; the end mark closes the completion."""

    id: str
    prompt: list[int]
    completion: list[int]


def read_pairs(pairs: Path, split: str, codec: Codec, context_length: int, heads: int, seed: int) -> list[Pair]:
    """The pairs of a split that fit into context_length tokens, in an order that depends on the seed and ids alone.

    Left out too: a prompt of fewer tokens than `heads`. ValueError when nothing is left.
    """
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(pairs / f"{split}.parquet", columns=["id", "prompt", "completion"])
    rows = sorted(table.to_pylist(), key=lambda row: rank(seed, row["id"]))
    found = [
        Pair(pair.id, list(pair.tokens[: pair.prompt_tokens]), list(pair.tokens[pair.prompt_tokens :]))
        for pair in encode_pairs(rows, codec)
        if pair.prompt_tokens >= heads and len(pair.tokens) <= context_length
    ]
    if not found:
        raise ValueError(
            f"none of the {len(rows)} pairs in {pairs / f'{split}.parquet'} fits into {context_length} tokens "
            f"with a prompt of at least {heads}: raise evaluation.context_length, give "
            "a larger corpus, or leave fine-tuning out with finetunes=[]"
        )
    return found


def up_to(pairs: Sequence[Pair], tokens: int) -> list[Pair]:
    """The first pairs whose completions hold `tokens` tokens together (all when there are fewer)."""
    chosen: list[Pair] = []
    for pair in pairs:
        if tokens <= 0:
            break
        chosen.append(pair)
        tokens -= len(pair.completion)
    return chosen


def complete_bodies(
    pairs: Sequence[Pair], codec: Codec, generate: Generate, max_new_tokens: int, batch_size: int
) -> Iterator[Completed]:
    """Generate until the end mark or max_new_tokens; the truth is cut to as many tokens before they are compared."""
    prompts = [pair.prompt for pair in pairs]
    stops = frozenset({codec.eos_id})
    for index, tokens in generate_in_batches(generate, prompts, batch_size, max_new_tokens, stops):
        pair = pairs[index]
        truth = codec.decode(pair.completion[:max_new_tokens])
        yield completed(pair.id, codec.decode(pair.prompt), truth, codec.decode(tokens))

"""All scores of one model, in order, and the files that keep them."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from components.artifacts import Checkpoint, Corpus, Evaluation, Pairs, Shards
from components.decoding.engine import Decoder
from components.evaluation import bodies, completion, heldout
from components.evaluation.config import EvaluationConfig
from components.model.transformer import MultiTokenTransformer
from components.model.weights import load_model
from components.shards.reader import TokenReader
from components.tokenizer.codec import Codec, load_tokenizer

WINDOWS = "windows.json"
SPLIT = "test"
"""No training reads it: validation is what a person looks at while choosing settings."""

Progress = Callable[[float, float, str], None]


def score_pretrained(
    config: EvaluationConfig,
    checkpoint: Checkpoint,
    shards: Shards,
    corpus: Corpus,
    directory: Path,
    threads: int,
    device: str,
    progress: Progress,
) -> Evaluation:
    """Held-out loss of every head, then line completion."""
    model, codec = _open(checkpoint, threads, device)
    reader = TokenReader(shards.path, SPLIT)
    reader.verify()
    n, context_length = checkpoint.n_future_tokens, config.context_length
    starts = heldout.window_starts(shards.tokens[SPLIT], context_length, n, config.heldout_tokens)
    lengths_V = _byte_lengths(codec, model)
    sums = heldout.HeadSums.zero(n)
    total = len(starts) * context_length
    for sums in heldout.score_windows(
        model,
        lambda start, length: torch.as_tensor(reader.window(start, length)).long(),
        starts,
        context_length,
        config.batch_size,
        lengths_V,
    ):
        progress(0.5 * sums.targets[0] / total, 1.0, "held-out loss")
    items = completion.choose_lines(completion.read_documents(corpus.path, SPLIT), config.line_items, config.seed)
    completed: list[completion.Completed] = []
    for done in completion.complete_lines(
        items,
        codec,
        _generator(model),
        config.line_context_tokens,
        config.line_max_new_tokens,
        config.generation_batch_size,
    ):
        completed.append(done)
        progress(0.5 + 0.5 * len(completed) / len(items), 1.0, "line completion")
    evaluation = Evaluation(
        path=directory,
        digest="",
        n_future_tokens=n,
        heads=sums.scores(),
        tokens=sums.targets[0],
        bits_per_byte=sums.bits_per_byte(),
        line_completion=completion.mean_score(completed),
    )
    windows = [[nats / math.log(2), n_bytes] for nats, n_bytes in sums.by_sequence]
    (directory / WINDOWS).write_text(json.dumps(windows) + "\n", encoding="utf-8")
    return _write(evaluation, completed)


def score_finetuned(
    config: EvaluationConfig,
    checkpoint: Checkpoint,
    pairs: Pairs,
    directory: Path,
    threads: int,
    device: str,
    progress: Progress,
) -> Evaluation:
    """Loss of every head on the completions' tokens, then generated completions against the true ones."""
    model, codec = _open(checkpoint, threads, device)
    n = checkpoint.n_future_tokens
    found = bodies.read_pairs(pairs.path, SPLIT, codec, config.context_length, n, config.seed)
    scored = bodies.up_to(found, config.heldout_tokens)
    total = sum(len(pair.completion) for pair in scored)
    sums = heldout.HeadSums.zero(n)
    for sums in heldout.score_completions(
        model, [(pair.prompt, pair.completion) for pair in scored], config.batch_size, _byte_lengths(codec, model)
    ):
        progress(0.5 * sums.targets[0] / total, 1.0, "loss on bodies")
    chosen = found[: config.body_items]
    completed: list[completion.Completed] = []
    for done in bodies.complete_bodies(
        chosen, codec, _generator(model), config.body_max_new_tokens, config.generation_batch_size
    ):
        completed.append(done)
        progress(0.5 + 0.5 * len(completed) / len(chosen), 1.0, "bodies")
    evaluation = Evaluation(
        path=directory,
        digest="",
        n_future_tokens=n,
        heads=sums.scores(),
        tokens=sums.targets[0],
        bits_per_byte=sums.bits_per_byte(),
        n_pretrained=checkpoint.n_pretrained,
        body_completion=completion.mean_score(completed),
    )
    return _write(evaluation, completed)


def _open(checkpoint: Checkpoint, threads: int, device: str) -> tuple[MultiTokenTransformer, Codec]:
    torch.set_num_threads(max(1, threads))
    return load_model(checkpoint.path, device), load_tokenizer(checkpoint.path / "tokenizer")


def _byte_lengths(codec: Codec, model: MultiTokenTransformer) -> Tensor:
    """Bytes that each symbol stands for; 0 for symbols the model has beyond the tokenizer's."""
    lengths = [codec.byte_length(token) for token in range(codec.vocabulary_size)]
    lengths += [0] * (model.config.vocabulary_size - len(lengths))
    return torch.tensor(lengths, device=model.embedding.weight.device)


def _generator(model: MultiTokenTransformer) -> completion.Generate:
    """Greedy generation through the engine. Heads that draft without a layer of their own do it for the price of an
    unembedding, so all are used; layers do not pay at this batch size on small models. Either way the tokens are those
    of head 0."""
    decoder, config = Decoder(model, torch.float32), model.config
    without_layers = config.head_layers_run(config.n_future_tokens) == config.head_layers_run(1)
    k = config.n_future_tokens if without_layers else 1

    def generate(prompts: Sequence[Sequence[int]], max_new_tokens: int, stop_ids: frozenset[int]) -> list[list[int]]:
        return decoder.generate(prompts, max_new_tokens, k=k, stop_ids=stop_ids).tokens

    return generate


def _write(evaluation: Evaluation, completed: Sequence[completion.Completed]) -> Evaluation:
    """Keep the record and the samples; the digest covers both, not where they lie."""
    facts = dataclasses.asdict(evaluation)
    facts.pop("path")
    lines = "".join(json.dumps(dataclasses.asdict(item)) + "\n" for item in sorted(completed, key=lambda item: item.id))
    facts["digest"] = hashlib.sha256((json.dumps(facts, sort_keys=True) + lines).encode()).hexdigest()
    (evaluation.path / "evaluation.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    (evaluation.path / "completions.jsonl").write_text(lines, encoding="utf-8")
    return dataclasses.replace(evaluation, digest=facts["digest"])

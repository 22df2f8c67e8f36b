"""The door of the room: the decoding benchmark as a stage."""

from components.artifacts import Checkpoint, DecodingBenchmark, Shards
from components.decoding.config import DecodingConfig
from components.flow.cost import Cost, Outlook
from components.flow.node import stage
from components.flow.stage_run import StageRun
from components.model.config import ModelConfig


def _decode_cost(at: Outlook) -> Cost:
    """Every arm decodes every prompt, next-token decoding a token a step and the others two, say; a step reads the
    weights once and is bound by that."""
    config: DecodingConfig = at.config
    model = ModelConfig(**at.inputs[0]["model"])
    n = model.n_future_tokens
    heads = [k for k in (range(2, n + 1) if config.heads is None else config.heads) if k > 1]
    arms = len(heads) + (n in heads)  # and the number chosen while running
    rounds = (config.repeats + 1) * (1 + arms / 2)  # one round to warm up
    value_bytes = 2 if config.dtype == "bfloat16" else 4
    weights = value_bytes * model.n_parameters()
    steps = rounds * sum(config.prompts // batch * config.new_tokens for batch in config.batches)
    tokens = int((config.repeats + 1) * (1 + arms) * len(config.batches) * config.prompts * config.new_tokens)
    cached = max(config.batches) * (config.prompt_tokens[1] + config.new_tokens)
    return Cost(
        tokens=tokens,
        flops=tokens * model.flops_per_token(sum(config.prompt_tokens) // 2) / 3,
        precision=config.dtype,
        read_bytes=steps * weights,
        memory={
            "parameters": 2 * weights,  # as loaded, and laid out for the engine
            "caches": cached * model.kv_bytes_per_token(value_bytes),
            "activations": 4 * config.prompt_tokens[1] * (6 * model.dim + 3 * model.ffn_width) * max(config.batches),
        },
        on_gpu=at.gpus > 0,
    )


@stage(version=8, measures_time=True, own_process=True, cost=_decode_cost)
def benchmark_decoding(
    config: DecodingConfig, checkpoint: Checkpoint, shards: Shards, run: StageRun
) -> DecodingBenchmark:
    """Self-speculative against next-token decoding of prompts from the test split."""
    import torch

    from components.decoding.benchmark import run_benchmark
    from components.decoding.machine import ask_for_large_pages
    from components.model.weights import load_model
    from components.shards.reader import TokenReader
    from components.tokenizer.codec import load_tokenizer

    ask_for_large_pages()
    reader = TokenReader(shards.path, "test")
    reader.verify()
    return run_benchmark(
        config,
        load_model(checkpoint.path, "cuda" if run.gpus else "cpu", getattr(torch, config.dtype)),
        reader,
        load_tokenizer(checkpoint.path / "tokenizer").decode_bytes,
        run.directory,
        max(1, run.cpus),
        run.progress,
        run.warn,
    )

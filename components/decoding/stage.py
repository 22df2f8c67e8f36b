"""The door of the room: the decoding benchmark as a stage."""

from components.artifacts import Checkpoint, DecodingBenchmark, Shards
from components.decoding.config import DecodingConfig
from components.flow.node import stage
from components.flow.stage_run import StageRun


@stage(version=2, measures_time=True)
def benchmark_decoding(
    config: DecodingConfig, checkpoint: Checkpoint, shards: Shards, run: StageRun
) -> DecodingBenchmark:
    """Self-speculative against next-token decoding of prompts from the test split."""
    import torch

    from components.decoding.benchmark import run_benchmark
    from components.model.weights import load_model
    from components.shards.reader import TokenReader
    from components.tokenizer.codec import load_tokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return run_benchmark(
        config,
        load_model(checkpoint.path, device),
        TokenReader(shards.path, "test"),
        load_tokenizer(checkpoint.path / "tokenizer").decode_bytes,
        run.directory,
        max(1, run.cpus),
        run.progress,
        run.warn,
    )

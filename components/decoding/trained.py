"""A trained model decoding real text: this engine's arms, with their checks, and transformers' on the same prompts.

Timings on random weights are in `synthetic`.
"""

import dataclasses
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from components.decoding.benchmark import Progress, Tokens, draw_prompts, draw_windows, run_benchmark, time_sampled
from components.decoding.beside import THEIRS, transformers_cases
from components.decoding.config import DecodingConfig
from components.decoding.sampling import Sampling
from components.model.weights import load_model
from components.shards.reader import TokenReader
from components.tokenizer.codec import load_tokenizer


def compare_on_checkpoint(
    config: DecodingConfig,
    checkpoint: Path,
    shards: Path | None,
    texts: Sequence[Path],
    sampling: Sampling,
    transformers: bool,
    cores: int,
    say: Callable[[str], None],
    progress: Progress,
) -> dict[str, Any]:
    """Cases of every text, and what they say together.

    texts: UTF-8 files to take prompts from, each an experiment of its own; none: the test split of `shards`, by default
    those beside the checkpoint. sampling: with a temperature, sampled decoding is timed alone. transformers: whether
    its arms are timed too, where it is installed. ValueError or OSError before anything is measured: what cannot be
    read, or is too short.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, config.dtype)
    model = load_model(checkpoint, device, dtype)
    codec = load_tokenizer(checkpoint / "tokenizer")
    found = _texts(texts, checkpoint, shards, codec.encode)
    for name, text in found.items():  # before the first is measured
        try:
            draw_prompts(config, text)
            if not sampling.temperature:
                draw_windows(config, text, model.config.n_future_tokens)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    pages: dict[str, dict[str, Any]] = {}
    cases: list[dict[str, Any]] = []
    ratios: dict[str, list[float]] = {}
    for name, text in found.items():
        peers = []
        if sampling.temperature:
            pages[name] = time_sampled(config, sampling, model, text, cores, progress)
        else:
            with tempfile.TemporaryDirectory() as directory:
                run_benchmark(config, model, text, codec.decode_bytes, Path(directory), cores, progress)
                pages[name] = json.loads((Path(directory) / "decoding.json").read_text(encoding="utf-8"))
        if transformers and not sampling.temperature:
            prompts = draw_prompts(config, text)
            peers = transformers_cases(
                model, dtype, prompts, config.batches, config.new_tokens, config.repeats, cores, say
            )
        where = {"model": checkpoint.name, "arrangement": model.config.arrangement, "text": name}
        cases += [where | case for case in pages[name]["rows"] + peers]
        for case in peers:
            if case["arm"] == THEIRS:
                ratios.setdefault(str(case["batch"]), []).extend(1 / speedup for speedup in case["speedups"])
    machines = [page["machine"] for page in pages.values()]
    roofs = {roof: median(machine[roof] for machine in machines) for roof in ("read_gb_per_second", "matmul_gflops")}
    hashes = {name: {case.get("ids_hash") for case in cases if case["text"] == name} for name in found}
    sampled = sampling.temperature > 0
    return {
        "subject": "decode",
        "checkpoint": str(checkpoint),
        "text": "sampled" if sampled else "greedy",
        "config": dataclasses.asdict(config) | ({"sampling": dataclasses.asdict(sampling)} if sampled else {}),
        "n_future_tokens": model.config.n_future_tokens,
        "cases": cases,
        "lossless": None if sampled else all(c["lossless"] for c in cases if c["mode"] != "transformers"),
        "same_ids": None if sampled else all(len(made) == 1 for made in hashes.values()),
        "vs_transformers": {batch: median(turns) for batch, turns in ratios.items()},
        "machine": machines[0] | roofs,
        "quiet": all(case["quiet"] for case in cases),
        "row_noise": {name: page.get("row_noise") for name, page in pages.items()},
        "heldout_histogram": {name: page.get("heldout_histogram") for name, page in pages.items()},
    }


def _texts(
    texts: Sequence[Path], checkpoint: Path, shards: Path | None, encode: Callable[[str], list[int]]
) -> dict[str, Tokens]:
    """What prompts are drawn from, by name. ValueError or OSError where it cannot be read."""
    if not texts:
        return {"test split": TokenReader(shards or _shards_beside(checkpoint), "test")}
    alone = len({path.name for path in texts}) == len(texts)
    found: dict[str, Tokens] = {}
    for path in texts:
        try:
            found[path.name if alone else str(path)] = _Tokens(encode(path.read_text(encoding="utf-8")))
        except UnicodeDecodeError as error:
            raise ValueError(f"text has {path}, which is not UTF-8 ({error.reason} at byte {error.start})") from None
    return found


class _Tokens(list[int]):
    def window(self, start: int, length: int) -> list[int]:
        return self[start : start + length]


def _shards_beside(checkpoint: Path) -> Path:
    """`runs/latest/` holds a link to every stage's output: the one with shards in it."""
    for path in sorted(checkpoint.absolute().parent.iterdir()):
        if (path / "shards.json").is_file():
            return path
    raise ValueError(f"no shards beside {checkpoint}; give shards=PATH or, for prompts from files, text=PATH")

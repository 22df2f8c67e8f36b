"""Fine-tuning on pairs: what counts in the loss, which heads stay, what is left out."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_training import CONFIG, EXECUTION, FINETUNE, metrics_of, write_pairs, write_shards

from components.artifacts import Checkpoint
from components.flow.stage_run import StageRun
from components.model.weights import load_model
from components.tokenizer.codec import BytesCodec
from components.training.config import FinetuneConfig
from components.training.cross_entropy import IGNORE
from components.training.pairs import EncodedPair, PairBatches, encode_pairs, pack
from components.training.stage import finetune, pretrain

BOS, EOS, PAD = 90, 91, 91
PAIRS = [EncodedPair("a", [BOS, 1, 2, 3, EOS], 3), EncodedPair("b", [BOS, 5, 6, EOS], 2)]


def row_of(mask_prompt: bool, n: int) -> tuple[list[int], list[list[int]], bool]:
    """The only row of two pairs in 11 tokens, and whether `b` came first."""
    config = FinetuneConfig(
        n_future_tokens=n, steps=1, batch_tokens=11, context_length=11, mask_prompt=mask_prompt, seed=0
    )
    tokens, targets = PairBatches(PAIRS, config, PAD, torch.device("cpu")).batch(0)
    return tokens[0].tolist(), targets[:, 0].tolist(), tokens[0, 1] == 5


X = IGNORE


def test_targets_by_hand() -> None:
    tokens, targets, b_first = row_of(mask_prompt=True, n=2)
    a, b = [BOS, 1, 2, 3, EOS], [BOS, 5, 6, EOS]
    # prompts: a is BOS 1 2, b is BOS 5; only 3 EOS and 6 EOS count, seen from their own pair
    a_targets = [[X, X, 3, EOS, X], [X, 3, EOS, X, X]]
    b_targets = [[X, 6, EOS, X], [6, EOS, X, X]]
    if b_first:
        assert tokens == b + a + [PAD] * 2
        assert targets == [p + q + [X] * 2 for p, q in zip(b_targets, a_targets, strict=True)]
    else:
        assert tokens == a + b + [PAD] * 2
        assert targets == [p + q + [X] * 2 for p, q in zip(a_targets, b_targets, strict=True)]


def test_targets_by_hand_with_the_prompt() -> None:
    """Everything of the pair counts but its BOS, which nothing in it comes before."""
    _, targets, b_first = row_of(mask_prompt=False, n=3)
    a_targets = [[1, 2, 3, EOS, X], [2, 3, EOS, X, X], [3, EOS, X, X, X]]
    b_targets = [[5, 6, EOS, X], [6, EOS, X, X], [EOS, X, X, X]]
    first, second = (b_targets, a_targets) if b_first else (a_targets, b_targets)
    assert targets == [p + q + [X] * 2 for p, q in zip(first, second, strict=True)]


def test_every_pair_comes_once_per_epoch_in_an_order_of_its_own() -> None:
    lengths = [3, 9, 4, 5, 2, 8, 1, 7]
    rows = pack(lengths, row_length=10, seed=5)
    used: list[int] = []
    while len(used) < 3 * len(lengths):
        row = next(rows)
        assert 0 < sum(lengths[i] for i in row) <= 10
        used += row
    epochs = [used[i : i + 8] for i in (0, 8, 16)]
    assert all(sorted(epoch) == list(range(8)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    again = pack(lengths, row_length=10, seed=5)
    assert used[:8] == [i for _ in range(8) for i in next(again)][:8]
    other = pack(lengths, row_length=10, seed=6)
    assert used[:8] != [i for _ in range(8) for i in next(other)][:8]


def test_text_becomes_marked_tokens() -> None:
    rows = [{"id": "x", "prompt": "ab", "completion": "c"}]
    assert encode_pairs(rows, BytesCodec()) == [EncodedPair("x", [256, 97, 98, 99, 257], 3)]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    torch.set_num_threads(1)
    directory = tmp_path_factory.mktemp("pretrained")
    return pretrain(CONFIG, write_shards(directory / "shards"), StageRun.local(directory, EXECUTION))


SUMS = [(f"def add(a={i}):", f" return a+{i}") for i in range(30)]


@pytest.mark.parametrize("n", [1, 2])
def test_a_model_goes_on_with_its_first_heads(pretrained: Checkpoint, tmp_path: Path, n: int) -> None:
    config = replace(FINETUNE, n_future_tokens=n, steps=12, learning_rate=3e-3)
    run = StageRun.local(tmp_path / "run", EXECUTION)
    checkpoint = finetune(config, pretrained, write_pairs(tmp_path / "pairs", SUMS), run)
    assert (checkpoint.n_future_tokens, checkpoint.n_pretrained) == (n, 2)
    model = load_model(checkpoint.path)
    assert model.config.n_trunk_layers == CONFIG.model.n_trunk_layers
    assert checkpoint.parameters == sum(p.numel() for p in model.parameters())
    lines = metrics_of(run)
    assert [name for name in lines[0] if name.startswith("loss/")] == [f"loss/head_{i + 1}" for i in range(n)]
    assert lines[-1]["loss/head_1"] < lines[0]["loss/head_1"] - 0.5
    assert (checkpoint.path / "tokenizer" / "tokenizer.json").is_file()


def test_it_starts_from_the_pretrained_weights(pretrained: Checkpoint, tmp_path: Path) -> None:
    """The loss of its first step is the pretrained model's on those pairs."""
    from components.training.loop import TrainState, train_step

    pairs = write_pairs(tmp_path / "pairs", SUMS)
    run = StageRun.local(tmp_path / "run", EXECUTION)
    finetune(FINETUNE, pretrained, pairs, run)
    rows = [{"id": str(i), "prompt": p, "completion": c} for i, (p, c) in enumerate(SUMS)]
    batches = PairBatches(encode_pairs(rows, BytesCodec()), FINETUNE, 257, torch.device("cpu"))
    state = TrainState.fresh(load_model(pretrained.path), FINETUNE)
    tokens, targets = batches.batch(0)
    result = train_step(state, (tokens, targets), FINETUNE, 4)
    mean = (result.sums.loss_K / result.sums.count_K).item()
    assert metrics_of(run)[0]["loss/head_1"] == pytest.approx(mean, rel=1e-5)


def test_more_heads_than_the_model_has_are_refused(pretrained: Checkpoint, tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs", SUMS)
    with pytest.raises(ValueError, match="n_future_tokens is 3, but the pretrained model has 2"):
        finetune(replace(FINETUNE, n_future_tokens=3), pretrained, pairs, StageRun.local(tmp_path, EXECUTION))


def test_pairs_longer_than_the_context_are_left_out_and_counted(pretrained: Checkpoint, tmp_path: Path) -> None:
    run = StageRun.local(tmp_path / "run", EXECUTION)
    fits_exactly = ("p" * 30, "c" * 32)  # and BOS and EOS: 64
    one_too_long = ("p" * 30, "c" * 33)
    pairs = write_pairs(tmp_path / "pairs", [*SUMS, fits_exactly, one_too_long])
    finetune(FINETUNE, pretrained, pairs, run)
    warning = (run.directory / "warnings.jsonl").read_text()
    assert "1 of 32 training pairs are longer than context_length (64 tokens)" in warning


def test_no_pair_that_fits_is_an_error(pretrained: Checkpoint, tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs", [("p" * 60, "c" * 60)])
    with pytest.raises(ValueError, match=r"none of the 1 training pairs fits context_length 64 .*shortest has 122"):
        finetune(FINETUNE, pretrained, pairs, StageRun.local(tmp_path / "run", EXECUTION))

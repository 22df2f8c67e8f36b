"""Both stages on a small real corpus with bytes for tokens, through the real engine."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from components.artifacts import Checkpoint, Corpus, Evaluation, Pairs, Shards
from components.corpus.blocks import in_process
from components.corpus.collect import collect_corpus
from components.corpus.config import CorpusConfig, PairsConfig
from components.corpus.pairs import write_pairs
from components.evaluation import completion
from components.evaluation.config import EvaluationConfig
from components.evaluation.stage import evaluate, evaluate_finetuned
from components.flow.stage_run import StageRun
from components.model.config import ModelConfig
from components.model.transformer import MultiTokenTransformer
from components.model.weights import load_model, save_model
from components.shards.pack import pack
from components.shards.reader import TokenReader
from components.tokenizer.codec import BytesCodec

CONFIG = EvaluationConfig(
    heldout_tokens=256, context_length=64, batch_size=3, line_items=5, line_context_tokens=40, line_max_new_tokens=12,
    body_items=3, body_max_new_tokens=10, generation_batch_size=2,
)  # fmt: skip

FUNCTION = '''def area_of_{name}(width, height, scale=1.0):
    """The area of a {name} of this width and height, in units of scale squared."""
    shape = make_{name}(width, height)
    return shape.area() * scale ** 2


'''


@dataclasses.dataclass(frozen=True)
class World:
    """What a checkpoint is evaluated on."""

    corpus: Corpus
    shards: Shards
    pairs: Pairs
    folder: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    for i in range(30):
        (folder / "sources" / f"pkg{i}").mkdir(parents=True)
        text = "import math\n\n\n" + "".join(FUNCTION.format(name=f"shape_{i}_{j}") for j in range(3))
        (folder / "sources" / f"pkg{i}" / "area.py").write_text(text)
    runs = {name: StageRun.local(folder / name) for name in ("corpus", "tokenizer", "shards", "pairs")}
    out = {name: run.directory for name, run in runs.items()}
    quiet = lambda done, total, text="": None  # noqa: E731
    source = CorpusConfig(source="files", path=str(folder / "sources"), test_share=0.2, validation_share=0.1)
    got = collect_corpus(source, out["corpus"], in_process, quiet)
    corpus = Corpus(out["corpus"], got.digest, got.documents, got.text_bytes, got.dropped)
    (out["tokenizer"] / "tokenizer.json").write_text(json.dumps({"kind": "bytes", "vocabulary_size": 258}))
    packed = pack(out["corpus"], out["tokenizer"], out["shards"], 4096, in_process, quiet)
    shards = Shards(out["shards"], packed.digest, 258, packed.tokens, packed.documents, packed.text_bytes)
    drawn = write_pairs(PairsConfig(), out["corpus"], out["pairs"], quiet)
    return World(corpus, shards, Pairs(out["pairs"], drawn.digest, drawn.pairs), folder)


def _checkpoint(world: World, n: int, arrangement: str, n_pretrained: int | None = None) -> Checkpoint:
    path = world.folder / f"checkpoint-{arrangement}-{n}"
    if not path.exists():
        shape = ModelConfig(
            dim=32, layers=6, n_attention_heads=2, vocabulary_size=258, n_future_tokens=n, arrangement=arrangement
        )  # type: ignore[arg-type]
        model = MultiTokenTransformer(shape)
        model.init_weights(5)
        with torch.no_grad():  # far from uniform, so that greedy choices have no ties
            for parameter in model.parameters():
                parameter.mul_(4.0 if parameter.dim() > 1 else 1.0)
        save_model(model, path)
        (path / "tokenizer").mkdir()
        (path / "tokenizer" / "tokenizer.json").write_text(json.dumps({"kind": "bytes", "vocabulary_size": 258}))
    return Checkpoint(path, "d", n, 0, 1, 1, 1.0, 1.0, 1, n_pretrained)


def _samples(evaluation: Evaluation) -> list[dict[str, object]]:
    lines = (evaluation.path / "completions.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize(
    ("n", "arrangement"),
    [(1, "parallel"), (4, "parallel"), (8, "replicated"), (3, "causal"), (4, "anticausal"), (4, "linear")],
)
def test_pretrained_scores_equal_a_plain_forward_and_cache_free_generation(
    world: World, n: int, arrangement: str, tmp_path: Path
) -> None:
    checkpoint = _checkpoint(world, n, arrangement)
    evaluation = evaluate(CONFIG, checkpoint, world.shards, world.corpus, StageRun.local(tmp_path))

    model, reader = load_model(checkpoint.path), TokenReader(world.shards.path, "test")
    assert evaluation.tokens == 256
    assert len(evaluation.heads) == n
    blocks = len(reader) // 64 - 1
    starts = [i * blocks // 4 * 64 for i in range(4)]
    windows = torch.stack([torch.from_numpy(reader.window(start, 64 + n)) for start in starts])
    with torch.inference_mode():
        logits = model(windows[:, :64])
    for i, head in enumerate(evaluation.heads):
        loss = torch.nn.functional.cross_entropy(
            logits[i].flatten(0, 1), windows[:, i + 1 : i + 65].flatten(), reduction="mean"
        )
        assert head.loss == pytest.approx(loss.item(), rel=1e-5)
    targets = windows[:, 1:65]
    bits = evaluation.heads[0].loss * 256 / torch.log(torch.tensor(2.0)).item()
    assert evaluation.bits_per_byte == pytest.approx(bits / int((targets < 256).sum()), rel=1e-6)

    codec = BytesCodec()
    items = completion.choose_lines(completion.read_documents(world.corpus.path, "test"), 5, CONFIG.seed)
    by_id = {item.id: item for item in items}
    for sample in _samples(evaluation):
        item = by_id[str(sample["id"])]
        tokens = completion.context_of(codec, item.context, 40)
        made: list[int] = []
        while len(made) < 12 and (not made or made[-1] not in (10, codec.eos_id)):
            with torch.inference_mode():
                made.append(int(model(torch.tensor([tokens + made]), heads=1)[0, 0, -1].argmax()))
        assert sample["generated"] == codec.decode(made).split("\n")[0].strip()
        assert sample["truth"] == item.rest
    assert evaluation.line_completion is not None
    assert evaluation.line_completion.items == 5


def test_finetuned_scores_are_of_the_completions_alone(world: World, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, context_length=400, heldout_tokens=500)
    checkpoint = _checkpoint(world, 4, "parallel", n_pretrained=4)
    evaluation = evaluate_finetuned(config, checkpoint, world.pairs, StageRun.local(tmp_path))
    assert (evaluation.n_pretrained, evaluation.n_future_tokens, len(evaluation.heads)) == (4, 4, 4)
    assert evaluation.line_completion is None
    assert evaluation.body_completion is not None
    assert evaluation.body_completion.items == len(_samples(evaluation)) == 3
    assert evaluation.tokens >= 500
    for sample in _samples(evaluation):
        assert str(sample["prompt"]).startswith("def area_of_shape_")
        assert "shape = mak".startswith(str(sample["truth"]))


def test_the_digest_is_of_the_scores_and_not_of_the_place(world: World, tmp_path: Path) -> None:
    checkpoint = _checkpoint(world, 1, "parallel")
    runs = [StageRun.local(tmp_path / name) for name in ("a", "b")]
    first, second = (evaluate(CONFIG, checkpoint, world.shards, world.corpus, run) for run in runs)
    assert first.digest == second.digest
    other = dataclasses.replace(CONFIG, seed=1)
    assert evaluate(other, checkpoint, world.shards, world.corpus, runs[0]).digest != first.digest
    kept = json.loads((second.path / "evaluation.json").read_text())
    assert kept["digest"] == second.digest
    assert kept["heads"][0]["loss"] == second.heads[0].loss


@pytest.mark.parametrize(("field", "value"), [("heldout_tokens", 0), ("line_items", -1), ("batch_size", 0)])
def test_values_out_of_range_are_named(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"{field} is {value}; it must be at least"):
        dataclasses.replace(EvaluationConfig(), **{field: value})

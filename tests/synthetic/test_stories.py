"""Induction on stories that people wrote: which names are found, what takes their place, and the cell on text."""

import json
import random
import re
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from components.artifacts import Corpus, Shards, Tokenizer
from components.corpus.blocks import in_process
from components.corpus.collect import collect_corpus
from components.corpus.config import CorpusConfig
from components.evaluation.heldout import HeadSums, score_windows, window_starts
from components.flow.stage_run import StageRun
from components.model.config import ModelConfig
from components.model.weights import load_model
from components.shards.pack import pack
from components.shards.reader import TokenReader
from components.synthetic.config import StoriesConfig, TextCellConfig, TextConfig
from components.synthetic.examples import Scored
from components.synthetic.score import score
from components.synthetic.stage import make_stories, train_text_cell
from components.synthetic.stories import Words, read_stories, renamed_stories, write_stories
from components.tokenizer.codec import Codec, load_tokenizer
from components.tokenizer.config import TokenizerConfig
from components.tokenizer.train import train_sentencepiece
from components.training.config import TrainingConfig, TrainingExecution

NAMES = ("Lily", "Tom", "Anna", "Ben", "Max", "Sue", "Mia", "Sam")
THINGS = ("ball", "boat", "cake", "dog", "tree", "stone", "cup", "hat", "kite", "book")
PLACES = ("park", "garden", "river", "house", "hill", "forest", "shop", "school")


def story(draw: random.Random) -> str:
    """Some sentences on two children."""
    a, b = draw.sample(NAMES, 2)
    lines = [f"One day, {a} went to the {draw.choice(PLACES)} with {b}."]
    for _ in range(draw.randint(4, 8)):
        x, y = draw.sample((a, b), 2)
        thing, place = draw.choice(THINGS), draw.choice(PLACES)
        lines.append(
            draw.choice(
                (
                    f"Then {x} saw a big {thing} near the {place}, and {y} was happy.",
                    f"{x} gave {y}'s {thing} to a friend in the {place}.",
                    f"They took the {thing} home, and {x} said to {y} that it was nice.",
                )
            )
        )
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class World:
    corpus: Corpus
    shards: Shards
    tokenizer: Tokenizer
    codec: Codec


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder, draw = tmp_path_factory.mktemp("stories"), random.Random(1)
    (folder / "texts").mkdir()
    for i in range(400):
        (folder / "texts" / f"{i}.txt").write_text(story(draw))
    runs = {name: StageRun.local(folder / name) for name in ("corpus", "tokenizer", "shards")}
    out = {name: run.directory for name, run in runs.items()}
    quiet = lambda done, total, text="": None  # noqa: E731
    source = CorpusConfig(
        source="files", path=str(folder / "texts"), max_mean_line_length=1000, test_share=0.2, validation_share=0.05
    )
    got = collect_corpus(source, out["corpus"], in_process, quiet)
    corpus = Corpus(out["corpus"], got.digest, got.documents, got.text_bytes, got.dropped)
    written = [path.read_text() for path in sorted((folder / "texts").iterdir())]
    (out["tokenizer"] / "tokenizer.model").write_bytes(
        train_sentencepiece(TokenizerConfig(vocabulary_size=400, character_coverage=1.0), written)
    )
    facts = {"kind": "sentencepiece", "vocabulary_size": 400}
    (out["tokenizer"] / "tokenizer.json").write_text(json.dumps(facts))
    packed = pack(out["corpus"], out["tokenizer"], out["shards"], 10_000, in_process, quiet)
    shards = Shards(out["shards"], packed.digest, 400, packed.tokens, packed.documents, packed.text_bytes)
    tokenizer = Tokenizer(out["tokenizer"], "d", "sentencepiece", 400, 1.0, 0, 0)
    return World(corpus, shards, tokenizer, load_tokenizer(tokenizer.path))


def texts(draw: random.Random, count: int) -> list[str]:
    return [story(draw) for _ in range(count)]


def test_names_are_words_that_are_capitals_amid_sentences(world: World) -> None:
    known = Words.of(texts(random.Random(2), 300))
    assert {word for word in known.every if word[0].isupper() and known.is_name(word)} == {*NAMES}


def made(world: World, folder: Path, count: int = 40) -> tuple[Scored, list[str], list[str]]:
    written = texts(random.Random(3), count)
    stories = renamed_stories(written, Words.of(written), world.codec, count)
    write_stories(stories, folder)
    return read_stories(folder, 10_000), [story.text for story in stories], written


def test_every_name_is_replaced_throughout_by_one_that_no_text_has(world: World, tmp_path: Path) -> None:
    _, stories, written = made(world, tmp_path)
    assert len(stories) == len(written)
    for new, old in zip(stories, written, strict=True):
        renamed: dict[str, str] = {}
        for a, b in zip(re.findall(r"\w+|\W", old), re.findall(r"\w+|\W", new), strict=True):
            if a != b:
                assert a in NAMES
                assert renamed.setdefault(a, b) == b
                assert not any(b in text for text in written)
        assert renamed
        assert len({*renamed.values()}) == len(renamed)


def test_counted_are_second_tokens_of_made_up_names_from_their_second_time_on(world: World, tmp_path: Path) -> None:
    part, stories, written = made(world, tmp_path)
    codec, examples = world.codec, part.examples
    for row, (new, old) in enumerate(zip(stories, written, strict=True)):
        tokens = examples.tokens_EL[row, : examples.length_E[row]].tolist()
        assert tokens == [codec.bos_id, *codec.encode(new)]
        fresh = {*re.findall(r"\w+", new)} - {*re.findall(r"\w+", old)}
        wanted, seen = [], set()
        for place in range(1, len(tokens)):
            pair = codec.decode(tokens[place - 1 : place + 1])
            if pair.startswith(" ") and pair.strip() in fresh and codec.decode([tokens[place - 1]]).startswith(" "):
                if pair in seen:
                    wanted.append(place)
                seen.add(pair)
        assert np.flatnonzero(examples.counted_EL[row]).tolist() == wanted


def test_who_copies_is_right_and_who_knows_old_names_is_not(world: World, tmp_path: Path) -> None:
    """The copier says what followed the same token earlier in the story; the other what mostly follows it in texts."""
    part, _, _ = made(world, tmp_path)
    followers: dict[int, dict[int, int]] = {}
    for text in texts(random.Random(4), 400):
        ids = world.codec.encode(text)
        for a, b in pairwise(ids):
            of = followers.setdefault(a, {})
            of[b] = of.get(b, 0) + 1
    copied = knew = total = 0
    for row in range(len(part.examples)):
        tokens = part.examples.tokens_EL[row].tolist()
        for place in np.flatnonzero(part.examples.counted_EL[row]).tolist():
            first, second = tokens[place - 1], tokens[place]
            earlier = {tokens[i + 1] for i in range(place - 1) if tokens[i] == first}
            copied += earlier == {second}
            of = followers.get(first)
            knew += of is not None and max(of, key=of.__getitem__) == second
            total += 1
    assert total > 100
    assert copied == total
    assert knew / total < 0.1


def test_a_tokenizer_that_cannot_spell_a_name_in_two_is_refused(world: World) -> None:
    from components.tokenizer.codec import BytesCodec

    written = texts(random.Random(3), 5)
    with pytest.raises(ValueError, match="names of two tokens cannot be made up: the tokenizer has"):
        renamed_stories(written, Words.of(written), BytesCodec(), 5)


def test_texts_without_names_are_refused(world: World) -> None:
    written = ["the cat sat on the mat. the dog ran."] * 3
    with pytest.raises(ValueError, match="no story of the test split has a name"):
        renamed_stories(written, Words.of(written), world.codec, 5)


def test_a_cell_on_text_measures_what_evaluation_and_a_plain_forward_do(world: World, tmp_path: Path) -> None:
    model = ModelConfig(
        dim=32, layers=4, n_attention_heads=4, vocabulary_size=world.shards.vocabulary_size, n_future_tokens=2
    )
    training = TrainingConfig(steps=30, batch_tokens=512, context_length=64, learning_rate=5e-3, warmup_steps=5)
    config = TextCellConfig(TextConfig(heldout_tokens=640, stories=10), model, training, look_every=10)
    run = StageRun.local(tmp_path, TrainingExecution(checkpoint_every=10))
    telling = StageRun.local(tmp_path / "stories")
    stories = make_stories(StoriesConfig(100, None), world.corpus, world.tokenizer, telling)
    assert f"only {stories.stories} stories" in (telling.directory / "warnings.jsonl").read_text()
    cell = train_text_cell(config, world.shards, (stories,), run)

    trained, reader = load_model(cell.path), TokenReader(world.shards.path, "test")
    starts = window_starts(world.shards.tokens["test"], 64, 2, 640)
    lengths = torch.tensor([world.codec.byte_length(t) for t in range(world.codec.vocabulary_size)])
    sums = HeadSums.zero(2)
    window = lambda start, length: torch.as_tensor(reader.window(start, length)).long()  # noqa: E731
    for sums in score_windows(trained, window, starts, 64, 4, lengths):  # noqa: B007
        pass
    assert cell.metrics["bits_per_byte"] == pytest.approx(sums.bits_per_byte(), rel=1e-5)
    told = read_stories(stories.path, 64)
    assert cell.metrics["accuracy"] == score(trained, [told], torch.float32)["accuracy"]
    assert cell.items == {"bits_per_byte": 640, "accuracy": told.items}
    assert (cell.tokens, cell.parameters) == (30 * 512, model.n_parameters())
    assert len((cell.path / "example.txt").read_text()) > 100
    lines = [json.loads(line) for line in (cell.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "score/bits_per_byte" in line] == [10, 20, 30]
    first, *_, last = (line["score/bits_per_byte"] for line in lines if "score/bits_per_byte" in line)
    assert last < first, "it learns"
    with pytest.raises(ValueError, match=r"no name comes twice in the first 2 tokens .* raise sizes\.NAME\.training"):
        read_stories(stories.path, 2)

    wrong = replace(config, model=replace(model, vocabulary_size=7))
    with pytest.raises(ValueError, match="vocabulary_size is 7, but the shards were written with 400 symbols"):
        train_text_cell(wrong, world.shards, (), StageRun.local(tmp_path / "wrong"))

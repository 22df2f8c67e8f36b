"""Training a tokenizer on a sample of the training split, and trying it on the validation split."""

import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from components.artifacts import Corpus
from components.corpus.reader import fetch, places
from components.corpus.split import hash_fraction
from components.tokenizer.codec import Codec
from components.tokenizer.config import TokenizerConfig

ROUND_TRIP_BYTES = 8_000_000
"""The round trip is tried on the whole validation split up to this size, on a sample of about it beyond."""
ROUND_TRIP_AT_A_TIME = 64

_UNKNOWN_MARK = "\u2585"
"""A character that sentencepiece reserves: it would leave a document that contains it out of the training."""


def sample(corpus: Path, split: str, text_bytes: int, sample_bytes: int, seed: int) -> Iterator[str]:
    """Texts of about `sample_bytes` of a split that has `text_bytes`, drawn by hash of the id, in id order."""
    share = sample_bytes / max(text_bytes, 1)
    for _, text in fetch(corpus, (p for p in places(corpus, split) if hash_fraction(seed, "tokenizer", p.id) < share)):
        yield text


def sample_mixture(corpus: Corpus, sample_bytes: int, seed: int) -> Iterator[str]:
    """The same of the training split; of a mixture as much of every source as its weight says, as far as it goes."""
    total = corpus.text_bytes["train"]
    if len(corpus.sources) < 2:
        yield from sample(corpus.path, "train", total, sample_bytes, seed)
        return
    share = {n: sample_bytes * s.weight / max(s.text_bytes["train"], 1) for n, s in corpus.sources.items()}
    wanted = (
        place
        for place in places(corpus.path, "train")
        if hash_fraction(seed, "tokenizer", place.id) < share[place.id.partition("/")[0]]
    )
    for _, text in fetch(corpus.path, wanted):
        yield text


def train_sentencepiece(config: TokenizerConfig, texts: Iterable[str]) -> bytes:
    """The model file of a byte-pair encoding that spells every text exactly. The same texts give the same pieces.

    ValueError says which vocabulary sizes the texts allow.
    """
    from sentencepiece import SentencePieceTrainer

    # whole documents, so that pieces may contain line ends
    documents = [text.replace(_UNKNOWN_MARK, "") for text in texts]
    longest = max((len(text.encode()) for text in documents), default=0)
    if not longest:
        raise ValueError(
            f"sample_bytes is {config.sample_bytes}, too small to draw a single document; raise it, or give a "
            "larger corpus"
        )
    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(documents),
            model_writer=model,
            model_type="bpe",
            vocab_size=config.vocabulary_size,
            character_coverage=config.character_coverage,
            max_sentence_length=longest + 1,  # longer ones would be left out in silence
            input_sentence_size=0,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            num_threads=4,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(_sizes_that_work(str(error), config, sum(map(len, documents)))) from error
    return model.getvalue()


def _sizes_that_work(message: str, config: TokenizerConfig, characters: int) -> str:
    if found := re.search(r"value <= (\d+)", message):
        return (
            f"vocabulary_size is {config.vocabulary_size}, but {characters} characters of training text allow at "
            f"most {found[1]}; lower tokenizer.vocabulary_size to that or give a larger corpus"
        )
    if found := re.search(r"required_chars\. \d+ vs (\d+)", message):
        return (
            f"vocabulary_size is {config.vocabulary_size}, but the characters of the training text need at least "
            f"{found[1]}; raise tokenizer.vocabulary_size to that or lower character_coverage "
            f"({config.character_coverage})"
        )
    return f"sentencepiece could not train on {characters} characters: {message}"


@dataclass(frozen=True)
class RoundTrip:
    """How a tokenizer did on text it was not trained on."""

    documents: int
    failures: int
    """Documents d with decode(encode(d)) != d."""
    text_bytes: int
    tokens: int


def try_round_trip(codec: Codec, texts: Iterable[str], threads: int) -> RoundTrip:
    """Encode and decode every text and compare."""
    documents = failures = text_bytes = tokens = 0
    for batch in _batches(texts, ROUND_TRIP_AT_A_TIME):
        for text, ids in zip(batch, codec.encode_batch(batch, threads), strict=True):
            documents += 1
            data = text.encode()
            failures += codec.decode_bytes(ids.tolist()) != data
            text_bytes += len(data)
            tokens += len(ids)
    return RoundTrip(documents, failures, text_bytes, tokens)


def _batches(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch

"""The door: `train_tokenizer` learns a vocabulary from the training split alone."""

from typing import Any

from components.artifacts import Corpus, Tokenizer
from components.flow.node import Resources, stage
from components.flow.stage_run import StageRun, write_json
from components.tokenizer.config import TokenizerConfig
from components.tokenizer.own import own_model_identity, own_model_problems, take_over


@stage(version=1, resources=Resources(cpus=1), external=own_model_identity, problems=own_model_problems)
def train_tokenizer(config: TokenizerConfig, corpus: Corpus, run: StageRun) -> Tokenizer:
    """Train (kind `bytes`, or a model that is given: nothing to train), then encode and decode the validation split
    to see that it is exact."""
    from components.tokenizer.codec import FACTS_FILE, MODEL_FILE, load_tokenizer, tokenizer_digest
    from components.tokenizer.train import (
        ROUND_TRIP_BYTES,
        sample,
        sample_mixture,
        train_sentencepiece,
        try_round_trip,
    )

    facts: dict[str, Any] = {"kind": config.kind, "vocabulary_size": config.size}
    inexact: list[str] = []
    if config.model_path is not None:
        model, inexact = take_over(config.model_path, config.size)
        (run.directory / MODEL_FILE).write_bytes(model)
        facts["taken_over_from"] = config.model_path
    elif config.kind == "sentencepiece":
        run.progress(0, 3, "reading")
        texts = list(sample_mixture(corpus, config.sample_bytes, config.seed))
        run.progress(1, 3, "training")
        (run.directory / MODEL_FILE).write_bytes(train_sentencepiece(config, texts))
        facts["trained_on_documents"] = len(texts)
        facts["trained_on_bytes"] = sum(len(text.encode()) for text in texts)
    write_json(run.directory / FACTS_FILE, facts)
    codec = load_tokenizer(run.directory)

    run.progress(2, 3, "round trip")
    held_out = corpus.text_bytes["validation"]
    trip = try_round_trip(codec, sample(corpus.path, "validation", held_out, ROUND_TRIP_BYTES, config.seed), run.cpus)
    if trip.failures:
        run.warn(
            f"{trip.failures} of {trip.documents} validation documents change when encoded and decoded"
            f"{': the model ' + ' and '.join(inexact) if inexact else ''}. What is lost there is not learned, and bits "
            "per byte count the bytes that come back"
        )
    bytes_per_token = trip.text_bytes / max(trip.tokens, 1)
    facts |= {
        "bytes_per_token": bytes_per_token,
        "round_trip": {
            "on": "the whole validation split" if held_out <= ROUND_TRIP_BYTES else "a sample of the validation split",
            "documents": trip.documents,
            "failures": trip.failures,
            "bytes": trip.text_bytes,
        },
    }
    write_json(run.directory / FACTS_FILE, facts)
    run.progress(3, 3, "done")
    return Tokenizer(
        run.directory,
        tokenizer_digest(codec),
        config.kind,
        codec.vocabulary_size,
        bytes_per_token,
        trip.failures,
        trip.documents,
    )

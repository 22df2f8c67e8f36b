"""The door: `train_tokenizer` learns a vocabulary from the training split alone."""

from typing import Any

from components.artifacts import Corpus, Tokenizer
from components.flow.cost import Cost, Outlook
from components.flow.node import Resources, stage
from components.flow.stage_run import StageRun, write_json
from components.tokenizer.config import TokenizerConfig, bytes_per_token_guess
from components.tokenizer.own import own_model_identity, own_model_problems, take_over

TRAIN_BYTES_PER_SECOND = 5e6
"""Of one core: sentencepiece learning a vocabulary."""


def _train_cost(at: Outlook) -> Cost:
    """Of the sample; how many bytes a token will hold is a guess from the vocabulary's size."""
    config: TokenizerConfig = at.config
    text_bytes = at.inputs[0].get("text_bytes", {}).get("train")
    learns = config.kind == "sentencepiece" and config.model_path is None
    sample = min(config.sample_bytes, text_bytes or config.sample_bytes) if learns else 0
    return Cost(
        core_seconds=sample / TRAIN_BYTES_PER_SECOND,
        disk_bytes=30 * config.size if learns else 0,
        expects={"bytes_per_token": bytes_per_token_guess(config), "vocabulary_size": config.size},
    )


@stage(
    version=1,
    resources=Resources(cpus=1),
    own_process=True,
    external=own_model_identity,
    problems=lambda config, _: own_model_problems(config),
    cost=_train_cost,
)
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

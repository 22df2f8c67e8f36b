"""A tokenizer as the files that `transformers.AutoTokenizer` reads: the ids are those of `codec.py`, with the mark of
the beginning before a text, as in training.

Written as JSON, without the library. A byte-pair encoding of sentencepiece becomes one of `tokenizers`: pieces have
spaces where sentencepiece writes U+2581, so that this character in a text is spelled in bytes, as the codec does it;
two neighbours may merge where their concatenation is a piece, in the order of its score. Bytes are the alphabet of
byte-level encodings, without a merge. Text such as `<s>` is text here as it was in training, never a mark.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.tokenizer.codec import MODEL_FILE, SPACE_PIECE, BytesCodec, Codec, load_tokenizer

BYTE_MARKS = ("<s>", "</s>")
"""What the marks of the byte tokenizer are called; no byte has a name of several characters."""
NO_LIMIT = 10**30
"""transformers' own number of tokens where no limit is known."""


def export_tokenizer(source: Path, directory: Path, context_length: int | None = None) -> list[str]:
    """Write `tokenizer.json` and `tokenizer_config.json` for the tokenizer in `source`. context_length: tokens of the
    sequences that its model was trained on. FileNotFoundError or ValueError where there is no readable tokenizer.

    Returns what keeps a sentencepiece model of other people from being one of these files; then none is written.
    """
    codec = load_tokenizer(source)
    if isinstance(codec, BytesCodec):
        content, marks = _byte_level(codec), BYTE_MARKS
    else:
        proto = _proto((source / MODEL_FILE).read_bytes())
        if hindrances := _hindrances(proto):
            return hindrances
        content = _byte_pairs(codec, proto)
        marks = (proto.pieces[codec.bos_id].piece, proto.pieces[codec.eos_id].piece)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "bos_token": marks[0],
        "eos_token": marks[1],
        "pad_token": marks[1],  # no symbol is for padding; what is padded is masked
        "padding_side": "left",
        "split_special_tokens": True,  # else "<s>" in a text would be the mark
        "clean_up_tokenization_spaces": False,
        "model_max_length": context_length or NO_LIMIT,
    }
    for name, value in (("tokenizer.json", content), ("tokenizer_config.json", settings)):
        (directory / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return []


def _byte_level(codec: Codec) -> dict[str, Any]:
    vocabulary = [*_byte_names(), *BYTE_MARKS]
    step = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return _tokenizer_json(codec, vocabulary, [], [codec.bos_id, codec.eos_id], step, step)


def _byte_names() -> list[str]:
    """The characters that stand for the 256 bytes in byte-level encodings, as GPT-2 began it: those that show stand for
    themselves, others for the characters from 256 on, in order."""
    shown = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte if byte in shown else 256 + hidden.index(byte)) for byte in range(256)]


def _proto(model: bytes) -> Any:
    from sentencepiece import sentencepiece_model_pb2

    formats: Any = sentencepiece_model_pb2  # its classes are made when it is imported
    proto = formats.ModelProto()
    proto.ParseFromString(model)
    return proto


def _hindrances(proto: Any) -> list[str]:
    """Why merging pairs would not give the ids of this sentencepiece model, if so."""
    names = [piece.piece for piece in proto.pieces]
    normal, rules = {*_of_kind(proto, "NORMAL")}, proto.normalizer_spec
    faults = {
        "is no byte-pair encoding": proto.trainer_spec.model_type != proto.trainer_spec.BPE,
        "has no bytes to spell what it has no piece for (byte_fallback)": len(_of_kind(proto, "BYTE")) != 256,
        "writes some characters as others (its normalization)": bool(rules.precompiled_charsmap),
        "adds or removes white space": rules.add_dummy_prefix or rules.remove_extra_whitespaces,
        "has no piece for the space": not rules.escape_whitespaces or SPACE_PIECE not in normal,
        "has pieces with a character that is none": any(letter not in normal for name in normal for letter in name),
        "has symbols that are never split or never used": bool(
            _of_kind(proto, "USER_DEFINED") + _of_kind(proto, "UNUSED")
        ),
        "has a piece twice": len({name.replace(SPACE_PIECE, " ") for name in names}) < len(names),
    }
    return [fault for fault, holds in faults.items() if holds]


def _of_kind(proto: Any, kind: str) -> list[str]:
    return [piece.piece for piece in proto.pieces if piece.type == getattr(piece, kind)]


def _byte_pairs(codec: Codec, proto: Any) -> dict[str, Any]:
    score = {piece.piece: piece.score for piece in proto.pieces if piece.type == piece.NORMAL}
    merges = [
        (-score[name], -cut, name[:cut], name[cut:])
        for name in score
        for cut in range(1, len(name))
        if name[:cut] in score and name[cut:] in score
    ]
    pairs = [[left.replace(SPACE_PIECE, " "), right.replace(SPACE_PIECE, " ")] for *_, left, right in sorted(merges)]
    vocabulary = [piece.piece.replace(SPACE_PIECE, " ") for piece in proto.pieces]
    special = [i for i, piece in enumerate(proto.pieces) if piece.type in (piece.CONTROL, piece.UNKNOWN)]
    decoder = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}
    return _tokenizer_json(codec, vocabulary, pairs, special, None, decoder, byte_fallback=True)


def _tokenizer_json(
    codec: Codec,
    vocabulary: Sequence[str],
    merges: Sequence[Sequence[str]],
    special: Sequence[int],
    pre_tokenizer: dict[str, Any] | None,
    decoder: dict[str, Any],
    byte_fallback: bool = False,
) -> dict[str, Any]:
    begin = vocabulary[codec.bos_id]
    mark = {"SpecialToken": {"id": begin, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": number}} for number, name in enumerate("AB"))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": vocabulary[i], **flags} for i in special],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [mark, first],
            "pair": [mark, first, second],
            "special_tokens": {begin: {"id": begin, "ids": [codec.bos_id], "tokens": [begin]}},
        },
        "decoder": decoder,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": byte_fallback,
            "ignore_merges": False,
            "vocab": {name: i for i, name in enumerate(vocabulary)},
            "merges": list(merges),
        },
    }

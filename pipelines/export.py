"""Write a trained model as a Hugging Face Llama: its trunk and head 1, which decode alone, and its tokenizer.

python pipelines/export.py runs/latest/pretrain-n4 exported

transformers and what reads its format run it: AutoModelForCausalLM.from_pretrained("exported"), and AutoTokenizer. The
further heads have no place in that format and are left out.
"""

import argparse
import sys
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(
        prog="export.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="a trained model's directory")
    parser.add_argument("directory", metavar="DIRECTORY", type=Path, help="where to write; new or empty")
    return parser


def export(checkpoint: Path, directory: Path) -> str:
    """Returns what was written and what was not. ValueError or OSError says what is wrong and what to do."""
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory} is a file; give a directory that is new or empty")
    if directory.is_dir() and (found := next(directory.iterdir(), None)):
        raise ValueError(
            f"{directory} is not empty (it has {found.name}), and nothing is overwritten; give a directory that is new "
            "or empty"
        )

    from components.model.llama import export_llama, llama_config
    from components.model.weights import load_model, trained_context
    from components.tokenizer.codec import MODEL_FILE, load_tokenizer
    from components.tokenizer.huggingface import export_tokenizer

    model = load_model(checkpoint)
    codec = load_tokenizer(checkpoint / "tokenizer")
    if codec.vocabulary_size != model.config.vocabulary_size:
        raise ValueError(
            f"{checkpoint / 'tokenizer'} has {codec.vocabulary_size} symbols, and the model beside it has "
            f"{model.config.vocabulary_size}; put the tokenizer there that the model was trained with"
        )
    context = trained_context(checkpoint)
    export_llama(model, directory, context, (codec.bos_id, codec.eos_id))
    hindrances = export_tokenizer(checkpoint / "tokenizer", directory, context)

    layers, n = llama_config(model.config)["num_hidden_layers"], model.config.n_future_tokens
    lines = [f"{directory}: the trunk and head 1 as a Llama of {layers} layers, in float32"]
    if n > 1:
        lines.append(f"of {n} prediction heads the first alone: further ones have no place in this format")
    if context is None:
        lines.append(
            "the context's length is not written: the checkpoint does not say what it was trained on; readers take 2048"
        )
    if hindrances:
        lines.append(
            f"no tokenizer: its sentencepiece model {' and '.join(hindrances)}, so others would make other ids; encode "
            f"with {checkpoint / 'tokenizer' / MODEL_FILE} and put {codec.bos_id} before a text"
        )
    else:
        lines.append("the tokenizer beside it makes the ids of this checkpoint's, the beginning's mark before a text")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    arguments = parser().parse_args(argv)
    try:
        print(export(arguments.checkpoint, arguments.directory))
    except (ValueError, OSError) as error:
        print(f"export.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Continue a prompt with a trained model; tokens appear as they come, in colour where several came at once.

python pipelines/generate.py runs/latest/pretrain-n4 "def fib(n):"
"""

import argparse
import codecs
import os
import sys
from pathlib import Path
from typing import TextIO

COLOURS = ("\x1b[32m", "\x1b[36m")
PLAIN = "\x1b[0m"


def parser() -> argparse.ArgumentParser:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(
        prog="generate.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="a trained model's directory")
    parser.add_argument("prompt", metavar="PROMPT", help="text to continue")
    parser.add_argument("--k", type=int, help="prediction heads to use: 1 is next-token decoding (default: all)")
    parser.add_argument("--max-new-tokens", metavar="N", type=int, default=128, help="default: 128")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="default: float32")
    parser.add_argument("--threads", type=int, help="CPU threads (default: one for a narrow model, else every core)")
    return parser


def wants_colour(out: TextIO) -> bool:
    """A terminal does, unless NO_COLOR is set (no-color.org)."""
    return out.isatty() and not os.environ.get("NO_COLOR")


class RunPrinter:
    """Writes runs of tokens as text. A character whose bytes are cut by a run's end waits for the rest of them."""

    def __init__(self, out: TextIO, coloured: bool) -> None:
        self._out, self._coloured = out, coloured
        self._reader = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._runs = 0

    def write(self, content: bytes, tokens: int) -> None:
        """Text of one run; only runs of several tokens are coloured, in turn."""
        text = self._reader.decode(content)
        if self._coloured and tokens > 1:
            self._runs += 1
            text = f"{COLOURS[self._runs % len(COLOURS)]}{text}{PLAIN}"
        self._out.write(text)
        self._out.flush()

    def close(self) -> None:
        self._out.write(self._reader.decode(b"", final=True) + "\n")
        self._out.flush()


def generate(arguments: argparse.Namespace) -> None:
    """Raises ValueError or FileNotFoundError with what is wrong and what to do."""
    if not arguments.prompt:
        raise ValueError('the prompt is empty; give some text, such as "def fib(n):"')

    import torch

    from components.decoding.engine import Decoder
    from components.model.weights import load_config, load_model
    from components.tokenizer.codec import load_tokenizer

    config = load_config(arguments.checkpoint)
    codec = load_tokenizer(arguments.checkpoint / "tokenizer")
    threads = arguments.threads or (1 if config.dim < 512 else os.cpu_count() or 1)
    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    decoder = Decoder(load_model(arguments.checkpoint, device), getattr(torch, arguments.dtype))
    k = config.n_future_tokens if arguments.k is None else arguments.k

    printer = RunPrinter(sys.stdout, wants_colour(sys.stdout))
    prompt = [codec.bos_id, *codec.encode(arguments.prompt)]

    before = [arguments.prompt]  # written with the first tokens, when all was found good

    def show(new: list[list[int]]) -> None:
        if before:
            sys.stdout.write(before.pop())
        printer.write(codec.decode_bytes(new[0]), len(new[0]))

    made = decoder.generate([prompt], arguments.max_new_tokens, k, stop_ids={codec.eos_id}, on_step=show)
    printer.close()
    tokens, forwards = len(made.tokens[0]), len(made.runs[0])
    rate = f", {(tokens - 1) / made.decode_seconds:,.0f} tokens/s" if made.decode_seconds else ""
    per_forward = f"{tokens / forwards:.2f} per forward"
    setting = f"k = {k} of {config.n_future_tokens}, {arguments.dtype}, {device}"
    print(f"{tokens} tokens in {forwards} forwards: {per_forward}{rate} ({setting})", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    arguments = parser().parse_args(argv)
    try:
        if arguments.threads is not None and arguments.threads < 1:
            raise ValueError(f"--threads is {arguments.threads}; it must be at least 1")
        generate(arguments)
    except (ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError):  # the reader, `head` say, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        print(f"generate.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(PLAIN if sys.stdout.isatty() else "", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

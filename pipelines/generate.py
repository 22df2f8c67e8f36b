"""Continue a prompt with a trained model; tokens appear as they come, in colour where several came at once.

python pipelines/generate.py runs/latest/pretrain-n4 "def fib(n):"
"""

import argparse
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
    parser.add_argument(
        "--k",
        type=heads,
        help="prediction heads to use: 1 is next-token decoding; adaptive finds out what pays (default: adaptive; "
        "all with --temperature, where a seed draws the same for a fixed k alone)",
    )  # fmt: skip
    parser.add_argument("--max-new-tokens", metavar="N", type=int, default=128, help="default: 128")
    parser.add_argument("--temperature", metavar="T", type=float, default=0.0, help="default: 0, the likeliest token")
    parser.add_argument("--top-k", metavar="N", type=int, default=0, help="sample from the N likeliest alone")
    parser.add_argument(
        "--top-p", metavar="P", type=float, default=1.0, help="sample from the likeliest up to a share P"
    )
    parser.add_argument("--seed", type=int, default=0, help="what sampling draws (default: 0)")
    parser.add_argument("--stop", metavar="TEXT", action="append", default=[], help="end before this text; repeatable")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="default: float32")
    parser.add_argument("--threads", type=int, help="CPU threads (default: one for a narrow model, else every core)")
    return parser


def heads(text: str) -> int | str:
    """What --k takes."""
    try:
        return text if text == "adaptive" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor adaptive") from None


def wants_colour(out: TextIO) -> bool:
    """A terminal does, unless NO_COLOR is set (no-color.org)."""
    return out.isatty() and not os.environ.get("NO_COLOR")


class RunPrinter:
    """Writes runs of tokens as text."""

    def __init__(self, out: TextIO, coloured: bool) -> None:
        self._out, self._coloured = out, coloured
        self._runs = 0

    def write(self, text: str, tokens: int) -> None:
        """Text of one run; only runs of several tokens are coloured, in turn."""
        if self._coloured and tokens > 1 and text:
            self._runs += 1
            text = f"{COLOURS[self._runs % len(COLOURS)]}{text}{PLAIN}"
        self._out.write(text)
        self._out.flush()


def generate(arguments: argparse.Namespace) -> None:
    """Raises ValueError or FileNotFoundError with what is wrong and what to do."""
    if not arguments.prompt:
        raise ValueError('the prompt is empty; give some text, such as "def fib(n):"')

    import torch

    from components.decoding import generate as decoding
    from components.decoding.machine import ask_for_large_pages
    from components.model.weights import load_config

    ask_for_large_pages()
    config = load_config(arguments.checkpoint)
    torch.set_num_threads(arguments.threads or (1 if config.dim < 512 else os.cpu_count() or 1))
    opened = decoding.open_checkpoint(arguments.checkpoint, getattr(torch, arguments.dtype))
    printer = RunPrinter(sys.stdout, wants_colour(sys.stdout))
    before = [arguments.prompt]  # written with the first tokens, when all was found good

    def show(row: int, text: str, tokens: int) -> None:
        if before:
            sys.stdout.write(before.pop())
        printer.write(text, tokens)

    made = decoding.generate(
        opened, arguments.prompt, arguments.max_new_tokens, arguments.k,
        arguments.temperature, arguments.top_k, arguments.top_p, arguments.seed, arguments.stop, on_text=show,
    )  # fmt: skip
    print(flush=True)
    figures, forwards = made.statistics, len(made[0].runs)
    rate = f", {figures.tokens_per_second:,.0f} tokens/s" if figures.steps else ""
    used = arguments.k or (config.n_future_tokens if arguments.temperature > 0 else "adaptive")
    print(
        f"{figures.tokens} tokens in {forwards} forwards: {figures.tokens / forwards:.2f} per forward{rate} "
        f"(k = {used} of {config.n_future_tokens}, {arguments.dtype}, {opened.decoder.device.type})",
        file=sys.stderr,
    )


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

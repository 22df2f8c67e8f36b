"""The command line for a trained model: what it prints where, and how it refuses."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from components.model.config import ModelConfig
from components.model.transformer import MultiTokenTransformer
from components.model.weights import save_model
from pipelines import generate
from pipelines.generate import RunPrinter

SCRIPT = Path(generate.__file__)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte model with random weights: its text is noise, much of it broken UTF-8."""
    path = tmp_path_factory.mktemp("checkpoint")
    config = ModelConfig(
        dim=32, layers=3, n_attention_heads=2, vocabulary_size=258, n_future_tokens=4, arrangement="replicated"
    )
    model = MultiTokenTransformer(config)
    model.init_weights(0)
    save_model(model, path)
    (path / "tokenizer").mkdir()
    facts = {"kind": "bytes", "vocabulary_size": 258}
    (path / "tokenizer" / "tokenizer.json").write_text(json.dumps(facts))
    return path


def test_text_on_stdout_and_figures_on_stderr(checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    texts = set()
    for k in ("1", "3"):
        assert generate.main([str(checkpoint), "def fib(n):", "--k", k, "--max-new-tokens", "40"]) == 0
        out, err = capfd.readouterr()
        assert out.startswith("def fib(n):")
        assert "\x1b" not in out  # not a terminal
        tokens = re.search(r"^(\d+) tokens in (\d+) forwards: [\d.]+ per forward, [\d,]+ tokens/s", err)
        assert tokens is not None
        assert int(tokens[1]) == 40
        texts.add(out)
    assert len(texts) == 1


def test_the_quick_start_loads_no_pipeline(checkpoint: Path) -> None:
    """Run from elsewhere, as a script; nothing of Ray, MLflow or Hydra is imported."""
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['generate.py', {str(checkpoint)!r}, 'x = ', '--max-new-tokens', '4']\n"
        "try: runpy.run_path(" + repr(str(SCRIPT)) + ", run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'ray', 'mlflow', 'hydra', 'omegaconf', 'pyarrow', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd="/", check=False)
    assert made.returncode == 0, made.stderr.decode()
    made.stdout.decode()  # whole characters only


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nowhere", "x"], "not a checkpoint"),
        (["{checkpoint}", ""], "the prompt is empty"),
        (["{checkpoint}", "x", "--k", "5"], "k is 5; this model has 4 prediction head(s)"),
        (["{checkpoint}", "x", "--max-new-tokens", "0"], "must be at least 1"),
        (["{checkpoint}/tokenizer", "x"], "not a checkpoint"),
    ],
)
def test_what_cannot_be_done_is_said(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert generate.main([argument.format(checkpoint=checkpoint) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert "Traceback" not in err
    assert out == ""


def test_runs_alternate_in_colour_and_characters_stay_whole() -> None:
    out = io.StringIO()
    printer = RunPrinter(out, coloured=True)
    for text, tokens in (("a", 1), ("bc", 2), ("d", 2), ("", 2), ("☃e", 2)):
        printer.write(text, tokens)
    green, cyan = generate.COLOURS
    end = generate.PLAIN
    assert out.getvalue() == f"a{cyan}bc{end}{green}d{end}{cyan}☃e{end}"


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo terminal")
@pytest.mark.parametrize("no_colour", [False, True])
def test_colour_is_for_terminals_that_want_it(no_colour: bool) -> None:
    """As generate.py decides it, on a pseudo terminal."""
    master, terminal = os.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    environment |= {"NO_COLOR": "1"} if no_colour else {}
    code = (
        "import sys\nfrom pipelines.generate import RunPrinter, wants_colour\n"
        "RunPrinter(sys.stdout, wants_colour(sys.stdout)).write('ab', 2)"
    )
    subprocess.run([sys.executable, "-c", code], stdout=terminal, env=environment, check=True)
    os.close(terminal)
    shown = os.read(master, 4096)
    os.close(master)
    assert (b"\x1b[" in shown) == (not no_colour)

"""The command line's boundary: what a recipe may say, and what a person is told when it says something else."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from components.flow.identity import canonical
from pipelines.compose import Faults, compose, recorded_recipe
from pipelines.experiment import Experiment, Schedule
from pipelines.fields import rows, table
from pipelines.launch import located, other_checkout
from pipelines.overrides import as_written, for_hydra
from pipelines.programs import FULL
from pipelines.recipe import Options, Recipe

ROOT = Path(__file__).resolve().parents[2]


def faults(*overrides: str) -> list[str]:
    with pytest.raises(Faults) as caught:
        compose(overrides)
    return caught.value.faults


@pytest.mark.parametrize("name", sorted(FULL.recipes()))
def test_every_recipe_composes_under_its_own_name(name: str) -> None:
    recipe, _ = compose([f"conf={name}"])
    assert recipe.name == name
    assert FULL.recipes()[name], f"conf/{name}.yaml needs a first comment line for --help"


def test_overrides_reach_their_field() -> None:
    recipe, options = compose(
        ["conf=bytes", "training.steps=7", "future_tokens=[1,2]", "workspace=/tmp/x", "plan=true"]
    )
    assert (recipe.training.steps, recipe.future_tokens) == (7, (1, 2))
    assert (options.workspace, options.plan) == ("/tmp/x", True)


def test_all_faults_at_once_each_with_its_place_and_near_names() -> None:
    said = faults("traning.steps=3", "model.layres=4", "training.learning_rate=fast", "training.warmup_steps=1.5")
    text = "\n".join(said)
    assert len(said) == 4
    assert "traning.steps: no such key; did you mean training.steps" in text
    assert "model.layres: no such key; did you mean model.layers" in text
    assert "training.learning_rate: " in text
    assert "'fast'" in text
    assert "training.warmup_steps: " in text


def test_one_section_names_all_its_values_out_of_range() -> None:
    said = faults("training.steps=0", "training.beta1=3", "model.dim=-1", "model.layers=0", "decoding.repeats=0")
    assert said == [
        "model.dim is -1; it must be at least 1",
        "model.layers is 0; it must be at least 1",
        "training.steps is 0; it must be at least 1",
        "training.beta1 is 3.0; it must lie in [0, 1)",
        "decoding.repeats is 0; it must be at least 1",
    ]


def test_a_fault_hides_no_other() -> None:
    said = faults("training.steps=fast", "training.beta1=3", "future_tokens=[1,4,99]", "model.dim=0", "reuse=some")
    named = {line.split(" ")[0].rstrip(":") for line in said}
    assert named == {"training.steps", "training.beta1", "future_tokens", "model.dim", "reuse"}


def test_a_fault_hides_none_that_shares_letters_with_its_key() -> None:
    said = faults("seed=x", "name=a/b", "training.steps=0", "finetune.steps=0", "training.batch_tokens=100")
    named = {line.split(" ")[0].rstrip(":") for line in said}
    assert named == {"seed", "name", "training.steps", "finetune.steps", "training.batch_tokens"}


def test_two_values_for_one_key_are_a_contradiction() -> None:
    assert faults("training.steps=3", "training.steps=4") == [
        "training.steps is given twice, as 3 and as 4: give it once"
    ]
    compose(["training.steps=3", "training.steps=3"])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("tokenizer=bytes", "tokenizer.vocabulary_size=5000"), "kind 'bytes' has 258"),
        (("corpus=python", "corpus.path=/data"), "a path needs source"),
        (("conf=bytes", "model.tied_embeddings=true"), "tied_embeddings needs one unembedding"),
        (("training.context_length=128", "evaluation.context_length=256"), "more than the model is trained on"),
    ],
)
def test_overrides_that_contradict_each_other_are_refused(overrides: tuple[str, ...], words: str) -> None:
    assert words in "\n".join(faults(*overrides))


def test_several_values_without_a_sweep_say_how_to_have_one() -> None:
    (said,) = faults("seed=1,2")
    assert said == "seed has several values, 1,2: add -m for a sweep over them, or write [1,2] for a list"
    assert faults("plan") == ["plan: give it a value, such as plan=…"]
    assert compose(["future_tokens=[1,2]", "finetunes=[]"])[0].future_tokens == (1, 2)
    (said,) = faults("conf=scaling", "model@sizes.3b.model=1b")  # Hydra's own words would be of its grammar
    assert "here give fields, as in sizes.3b.model.dim=" in said


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("~model", "nothing can be taken out of it"),
        ("model.dim=[1,", "not readable; quote"),
        ("corpus.max_bytes=10", "must be at least min_bytes (200)"),
        ("demo", "demo: an argument is KEY=VALUE; did you mean conf=demo?"),
        ("b.py", "a glob needs quotes"),
    ],
)
def test_what_hydra_would_say_in_words_of_its_own_is_said_in_ours(override: str, words: str) -> None:
    (said,) = faults(override)
    assert words in said


def test_a_plus_before_a_key_that_is_there_is_no_fault() -> None:
    assert compose(["+model.dim=128", "model.n_attention_heads=4"])[0].model.dim == 128


def test_a_plus_adds_a_group_that_the_recipe_does_not_name() -> None:
    recipe, _ = compose(["+decoding=tokens_512", "decoding.batches=[1,4]"])
    assert recipe.decoding.prompt_tokens == (512, 512)
    assert recipe.decoding.batches == (1, 4)


def test_a_fault_is_not_told_again_with_a_default_in_its_place() -> None:
    assert faults("model=3b", "model.dim=100") == [
        "model.dim / n_attention_heads is 5; rotary positions need an even number"
    ]


def test_a_typo_in_a_mixture_s_part_is_no_new_part() -> None:
    (said,) = faults("corpus=code_and_prose", "corpus.mixture.codee.weight=5")
    assert "did you mean code or prose?" in said
    recipe, _ = compose(["corpus=code_and_prose", "corpus.mixture.code.weight=5"])
    assert recipe.corpus.mixture is not None
    assert recipe.corpus.mixture["code"].weight == 5


def test_a_path_may_start_at_home() -> None:
    recipe, _ = compose(["corpus=files", "corpus.path=~/src"])
    assert recipe.corpus.path == str(Path.home() / "src")


@pytest.mark.parametrize("path", ["s3://bucket/folder?region=us-east-1", "gs://bucket/**/*.parquet", "file:///data"])
def test_a_uri_stays_and_a_path_becomes_absolute(path: str) -> None:
    for given in (path, f"'{path}'"):
        assert compose(["corpus=parquet", f"corpus.path={given}"])[0].corpus.path == path
    assert compose(["corpus=jsonl", "corpus.path=data"])[0].corpus.path == str(Path.cwd() / "data")


def test_a_mixture_is_given_by_a_group_or_whole() -> None:
    recipe, _ = compose(["corpus=code_and_prose", "corpus.mixture.prose.weight=2", "corpus.max_bytes=1000000"])
    assert recipe.corpus.weights() == {"code": 0.6, "prose": 0.4}
    assert {name: (p.source, p.max_bytes) for name, p in recipe.corpus.parts().items()} == {
        "code": ("python", 600_000),
        "prose": ("prose", 400_000),
    }
    mixture = "{a:{source:files,path:'~/src',weight:1},b:{source:parquet,path:'s3://b/k',text_column:body,weight:1}}"
    recipe, _ = compose([f"corpus.mixture={mixture}"])
    assert recipe.corpus.parts()["a"].path == str(Path.home() / "src")
    assert recipe.corpus.parts()["b"].path == "s3://b/k"
    assert recipe.corpus.parts()["b"].text_column == "body"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["corpus.mixture.prose.wait=2"], "corpus.mixture.prose.wait: no such key; did you mean"),
        (["corpus.mixture.prose.weight=0"], "corpus.mixture.prose.weight is 0.0; it must be above 0"),
        (["corpus.mixture.prose.weight=true"], "corpus.mixture.prose.weight: input should be float"),
        (["corpus.mixture.prose.weight=inf"], "corpus.mixture.prose.weight: input should be finite"),
        (["corpus.mixture.prose.source=web"], "corpus.mixture.prose.source: "),
        (["corpus.mixture.prose.text_column=x"], "corpus.mixture.prose.text_column is 'x' with source 'prose'"),
        (["corpus.path=/data"], "corpus.path is '/data' beside a mixture"),
    ],
)
def test_the_faults_of_a_mixture_have_their_place(overrides: list[str], words: str) -> None:
    said = "\n".join(faults("corpus=code_and_prose", *overrides))
    assert words in said


def test_heads_that_a_model_lacks_are_not_measured_on_it() -> None:
    recipe, _ = compose(["conf=bytes", "future_tokens=[1,4,8]"])
    assert recipe.decoding_for(4).heads == (2, 4)
    assert recipe.decoding_for(8) == recipe.decoding
    (said,) = faults("conf=bytes", "future_tokens=[1,4,8]", "decoding.heads=[6]")
    assert "at least one k that each model has" in said


def test_an_unknown_recipe_offers_the_nearest_and_the_list() -> None:
    (said,) = faults("conf=code_14b")
    assert "code_14b" in said
    assert "code_13b" in said.split("there are")[0]
    assert "demo" in said


def test_an_unknown_choice_of_a_group_lists_the_choices() -> None:
    (said,) = faults("model=laptob")
    assert "conf/model/" in said
    assert "laptop" in said


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("future_tokens=[0]", "n_future_tokens is 0; it must be at least 1"),
        ("future_tokens=[1,10]", "10 layers"),
        ("model.n_future_tokens=4", "future_tokens=[1,4] lists the n to compare"),
        ("model.n_attention_heads=3", "must divide dim"),
        ("finetunes=[[8,1]]", "n = 8, which is not trained"),
        ("future_tokens=[1,65]", "64 at most"),
        ("cluster.dashboard_port=0", "a port, 1 to 65535"),
        ("corpus.max_mean_line_length=inf", "corpus.max_mean_line_length: input should be finite"),
        ("training.steps={a:{b:true}}", "training.steps: "),
        ("future_tokens=4", "a list, such as [4]"),
        ("finetunes=[[4,1],[4,1]]", "each pair may stand once"),
        ("model.norm_eps=-1", "model.norm_eps is -1"),
        ("cluster.training.workers=8", "a step of training has 4 sequence(s)"),
        ("reuse=maybe", "reuse"),
    ],
)
def test_values_out_of_range_say_what_is_allowed(override: str, words: str) -> None:
    assert words in "\n".join(faults(override))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("sizes.1m.training.stepps=3", "sizes.1m.training.stepps: no such key; did you mean sizes.1m.training.steps"),
        ("sizes.1m.steps=3", "sizes.1m.steps: no such key; did you mean sizes.1m.training.steps"),
        ("+sizes.1m.model.layres=3", "sizes.1m.model.layres: no such key; did you mean sizes.1m.model.layers"),
        ("sizes.1m.model.n_future_tokens=2", "sizes.1m.model.n_future_tokens cannot be given: future_tokens=[1,4]"),
        ("sizes.2m.training.steps=3", "sizes.2m: no such size in the recipe scaling_small; did you mean"),
        ("sizes.1m.training.steps=fast", "sizes.1m.training.steps: input should be a valid integer"),
        ("sizes.1m.training.steps=true", "sizes.1m.training.steps: input should be int"),
        ("sizes.1m.training.steps=0", "sizes.1m.training.steps is 0; it must be at least 1"),
        ("sizes.1m.model.layers=4", "future_tokens contains 4, at sizes.1m: n_future_tokens is 4 with 4 layers"),
        ("sizes.1m.training.context_length=128", "at most sizes.1m.training.context_length, 128"),
        ("sizes.1m.training.batch_tokens=256", "a step of sizes.1m.training has 1 sequence(s)"),
        ("training.steps=3", "model or training is given beside sizes, which have their own (1m, 3m, 9m)"),
        ("+sizes.2m.model.dim=64", "sizes.2m.training: field required"),
        ("++sizes={2-m:{model:{},training:{}}}", "sizes has '2-m'"),
        ("sizes.1m=3", "sizes.1m: input should be"),
        ("sizes=3", "sizes: input should be"),
    ],
)
def test_a_fault_inside_a_size_is_named_with_its_path(override: str, said: str) -> None:
    assert said in "\n".join(faults("conf=scaling_small", "cluster.training.workers=2", override))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["arrangements=[serial]"],
            "with serial; there are parallel, causal, anticausal, linear, replicated, parallel_ex",
        ),
        (["arrangements=[linear,linear]"], "each may stand once"),
        (["arrangements=[linear]", "future_tokens=[1]"], "give future_tokens an n above 1"),
        (["arrangements=[linear]", "model.arrangement=causal"], "beside model.arrangement or model.extra_layers"),
        (["arrangements=[linear]", "model.extra_layers=true"], "beside model.arrangement or model.extra_layers"),
        (["arrangements=[linear]", "conf=scaling_small"], "a study is of one or of the other"),
        (
            ["arrangements=[linear,causal]", "future_tokens=[1,10]"],
            "contains 10, as causal: n_future_tokens is 10 with",
        ),
        (["arrangements=linear"], "a list, such as [linear]"),
    ],
)
def test_a_study_of_arrangements_that_cannot_be_is_refused(overrides: list[str], said: str) -> None:
    assert said in "\n".join(faults(*overrides))


def test_faults_of_several_sizes_come_together_with_others() -> None:
    assert faults(
        "conf=scaling_small", "sizes.1m.training.steps=0", "sizes.9m.model.dim=-1", "sizes.3m.modl.dim=1", "seed=x"
    ) == [
        "sizes.3m.modl.dim: no such key; did you mean sizes.3m.model.dim or sizes.3m.model.ffn_dim?",
        "seed: input should be a valid integer, unable to parse string as an integer (given: 'x')",
        "sizes.1m.training.steps is 0; it must be at least 1",
        "sizes.9m.model.dim is -1; it must be at least 1",
    ]


def test_any_key_of_a_size_can_be_given_and_the_others_stay() -> None:
    before, _ = compose(["conf=scaling_small"])
    after, _ = compose(["conf=scaling_small", "sizes.1m.training.steps=7", "sizes.3m.model.norm_eps=1e-6"])
    assert list(after.sizes) == ["1m", "3m", "9m"]
    assert after.sizes["1m"].training.steps == 7
    assert after.sizes["3m"].model.norm_eps == 1e-6
    assert after.sizes["1m"].model == before.sizes["1m"].model
    assert after.sizes["9m"] == before.sizes["9m"]


def test_a_size_of_a_recipe_without_sizes_is_refused() -> None:
    assert faults("sizes.1m.training.steps=3") == [
        "sizes.1m: the recipe demo has no sizes; give model.… and training.… themselves"
    ]


def test_a_sweep_over_a_size_is_a_sweep() -> None:
    assert for_hydra("sizes.1m.training.steps=3,4", FULL) == (
        "++sizes={1m:{training:{steps:3}}},{1m:{training:{steps:4}}}"
    )
    assert for_hydra("sizes.1m.training.steps=range(3,5)", FULL) == (
        "++sizes={1m:{training:{steps:3}}},{1m:{training:{steps:4}}}"
    )
    assert for_hydra("seed=1,2", FULL) == "seed=1,2"
    for written in ("sizes.1m.training.steps=3", "sizes.3b.model.n_kv_heads=null", "seed=1"):
        assert as_written(for_hydra(written, FULL)) == written


def test_jobs_of_a_sweep_over_sizes_are_named_as_it_was_written(tmp_path: Path) -> None:
    said = cli("-m", "conf=scaling_small", "sizes.1m.training.steps=3,4", "seed=7", "plan=true", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    for steps in (3, 4):
        assert f"sizes.1m.training.steps={steps}, scaling_small: n = 1, 4" in said.stdout


@pytest.mark.parametrize("conf", ["demo", "scaling_small", "heads_small"])
def test_a_recipe_that_a_run_wrote_down_is_read_back(conf: str) -> None:
    recipe, _ = compose([f"conf={conf}"])
    assert recorded_recipe(json.loads(json.dumps(canonical(recipe))), FULL) == recipe


def test_a_path_of_pairs_is_absolute_and_a_uri_stays() -> None:
    table = ["conf=demo", "pairs=table"]
    assert compose([*table, "pairs.path=~/xsum"])[0].pairs.path == str(Path.home() / "xsum")
    assert compose([*table, "pairs.path=xsum"])[0].pairs.path == str(Path("xsum").absolute())
    assert compose([*table, "pairs.path=s3://bucket/xsum"])[0].pairs.path == "s3://bucket/xsum"


def test_a_typo_in_a_recipe_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    from pipelines import keys

    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    with (tmp_path / "conf" / "demo.yaml").open("a") as file:
        file.write("\ntraining:\n  stepps: 3\n")
    monkeypatch.setattr(keys, "CONF", tmp_path / "conf")
    monkeypatch.setattr(keys, "ROOT", tmp_path)
    assert faults() == ["training.stepps: no such key; did you mean training.steps or training.warmup_steps?"]


def test_every_field_has_a_sentence_and_the_documentation_lists_it() -> None:
    for kind in (Recipe, Options, Experiment, Schedule):
        assert [path for path, _, sentence in rows(kind, kind()) if not sentence] == []
    assert table() in (ROOT / "conf" / "README.md").read_text(encoding="utf-8"), "run python -m pipelines.fields"


def cli(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "pipelines" / "full.py"), *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200"},
        check=False,
    )


def test_help_lists_the_recipes_from_any_directory(tmp_path: Path) -> None:
    said = cli("--help", cwd=tmp_path)
    assert said.returncode == 0
    for name, sentence in FULL.recipes().items():
        assert re.search(rf"^  conf={name} +{re.escape(sentence)}$", said.stdout, re.MULTILINE)
    here, paper = said.stdout.split("Recipes of the paper")
    assert (
        FULL.for_this_machine()
        == {"demo", "bytes", "scaling_small", "heads_small"}
        == set(re.findall(r"^  conf=(\w+)", here, re.M))
    )
    assert set(re.findall(r"^  conf=(\w+)", paper, re.M)) == FULL.recipes().keys() - FULL.for_this_machine()
    assert list(tmp_path.iterdir()) == []


def test_a_plan_of_the_13b_recipe_needs_neither_data_nor_cluster_but_its_run_names_both(tmp_path: Path) -> None:
    planned = cli("conf=code_13b", "plan=true", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert "n=4 pretrain" in planned.stdout
    assert list(tmp_path.iterdir()) == []

    refused = cli("conf=code_13b", cwd=tmp_path)
    assert refused.returncode == 2
    assert "corpus.path" in refused.stderr
    assert "64 GPUs" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_fault_that_one_job_has_twice_is_said_once() -> None:
    assert located({"too long": [0, 0]}, [""]) == ["too long"]
    assert located({"too long": [1, 1]}, ["seed=1", "seed=2"]) == ["too long (with seed=2)"]


def test_faults_on_the_command_line_end_without_a_traceback(tmp_path: Path) -> None:
    said = cli("traning.steps=3", "training.learning_rate=fast", cwd=tmp_path)
    assert said.returncode == 2
    assert "did you mean training.steps" in said.stderr
    assert "training.learning_rate" in said.stderr
    assert "Traceback" not in said.stderr + said.stdout


def test_the_commands_for_one_s_own_data_compose() -> None:
    text = (ROOT / "conf" / "README.md").read_text(encoding="utf-8").partition("## Your own data")[2].split("\n## ")[0]
    commands = [shlex.split(line) for line in re.findall(r"python pipelines/full\.py ([^`\n]+)", text)]
    assert len(commands) >= 9
    for arguments in commands:
        try:
            compose(arguments)
        except Faults as error:
            assert error.faults == [  # noqa: PT017  (the model file of the example is nobody's)
                "tokenizer.model_path /models/tokenizer.model is not there; with vocabulary_size=N a plan goes without "
                "the file"
            ]


def test_a_program_of_another_checkout_than_the_one_installed_is_refused(tmp_path: Path) -> None:
    """Else an edit in one's working copy would change nothing, without a word."""
    for folder in ("pipelines", "components"):
        (tmp_path / folder).mkdir()
    (tmp_path / "pipelines" / "full.py").symlink_to(ROOT / "pipelines" / "full.py")
    shutil.copy(ROOT / "pipelines" / "full.py", tmp_path / "pipelines" / "copied.py")
    said = subprocess.run(
        [sys.executable, str(tmp_path / "pipelines" / "copied.py"), "plan=true"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert said.returncode == 2
    assert f"belongs to {tmp_path}, but this Python imports {ROOT}" in said.stderr
    assert other_checkout(tmp_path / "pipelines" / "full.py", ROOT) is None  # a link leads home
    assert other_checkout(ROOT / "pipelines" / "full.py", ROOT) is None


def test_ctrl_c_while_python_ends_changes_nothing() -> None:
    """The second of two: the first has ended the run, and what it said and its exit code stay."""
    program = """
        import atexit, sys, time
        from pipelines import full

        def interrupted(*_):
            raise KeyboardInterrupt

        def ending():
            print("ending", flush=True)
            time.sleep(1)

        full.launch = interrupted
        atexit.register(ending)
        sys.exit(full.main())
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ending\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "KeyboardInterrupt" not in err

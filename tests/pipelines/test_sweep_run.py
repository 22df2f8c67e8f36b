"""A sweep from its jobs to its page: one failing job ends no other, what jobs share is made once, faults come first."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console
from toy_sweep import jobs, plan_job

from components.flow.cost import Capacity
from components.flow.plan import Plan
from components.flow.run import Outcome
from pipelines.launch import Job, swept
from pipelines.sweep import run_sweep

ROOT = Path(__file__).resolve().parents[2]


def never(job: Job, plan: Plan, capacity: Capacity, console: Console, tags: Mapping[str, str]) -> Outcome:
    raise AssertionError("nothing may run")


def cli(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "pipelines" / "full.py"), *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200"},
        check=False,
    )


@pytest.mark.ray
def test_a_sweep_on_ray_goes_on_after_a_failure_and_shares_what_its_jobs_have_in_common(tmp_path: Path) -> None:
    program = Path(__file__).parent / "toy_sweep.py"
    made = subprocess.run(
        [sys.executable, str(program), str(tmp_path), "2,1"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200", "PYTHONPATH": f"{ROOT}:{program.parent}"},
        check=False,
    )
    assert made.returncode == 1, made.stdout + made.stderr
    assert len(list((tmp_path / "store" / "gather").iterdir())) == 1
    assert made.stdout.count("data: running") == 1

    sweep = tmp_path / "latest-sweep"
    assert sweep.resolve().parent == tmp_path
    assert str(sweep.resolve() / "index.html") in made.stdout
    numbers = json.loads((sweep / "results.json").read_text())
    assert [job["status"] for job in numbers["jobs"]] == ["failed", "done"]
    assert numbers["jobs"][0]["cause"] == "report: ValueError: two is out of luck"
    assert (sweep.resolve() / numbers["jobs"][1]["report"]).read_text() == "a report"
    (group,) = numbers["groups"]
    assert group["figures"][0]["mean"]["mean"] == pytest.approx(2.1)
    assert group["figures"][1]["difference"]["mean"] == pytest.approx(0.5)
    assert group["figures"][1]["difference"]["seeds"] == 1

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("headstart").experiment_id
    runs = client.search_runs([experiment], f"tags.sweep = '{sweep.resolve().name}'")
    assert sorted(run.info.status for run in runs) == ["FAILED", "FINISHED"]
    client._tracking_client.store.engine.dispose()


def test_ctrl_c_leaves_a_page_that_says_how_far_it_came(tmp_path: Path) -> None:
    def interrupted(job: Job, plan: Plan, capacity: Capacity, console: Console, tags: Mapping[str, str]) -> Outcome:
        if job.recipe.seed == 3:
            raise KeyboardInterrupt
        raise ConnectionError("no Ray answers at cluster.address=x:1")

    with pytest.raises(KeyboardInterrupt):
        run_sweep(jobs(tmp_path, (1, 3, 4)), plan_job, interrupted)
    numbers = json.loads((tmp_path / "latest-sweep" / "results.json").read_text())
    assert [job["status"] for job in numbers["jobs"]] == ["failed", "stopped", "waiting"]
    page = (tmp_path / "latest-sweep" / "index.html").read_text()
    assert "no Ray answers at cluster.address=x:1" in page
    assert "1 stopped." in page
    assert "1 not run." in page


def test_reuse_none_makes_what_jobs_share_anew_but_once(tmp_path: Path) -> None:
    one, two = jobs(tmp_path, (1, 3), reuse="none")
    first, _ = plan_job(one, ())
    second, _ = plan_job(two, {p.recipe_key for p in first.nodes})
    assert [p.anew for p in first.nodes] == [True, True]
    assert {p.node.name: p.anew for p in second.nodes} == {"data": False, "report": True}


def test_the_same_job_twice_and_a_swept_option_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_sweep(jobs(tmp_path, (1, 1)), plan_job, never) == 2
    assert "are the same recipe; give each value once" in capsys.readouterr().err

    two = [*jobs(tmp_path / "a", (1,)), *jobs(tmp_path / "b", (3,))]
    assert run_sweep(two, plan_job, never) == 2
    assert "workspace is swept" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_is_swept_is_what_differs() -> None:
    assert swept([("seed=1", "model=a", "training.steps=8"), ("seed=2", "model=a", "training.steps=8")]) == [
        {"seed": "1"},
        {"seed": "2"},
    ]
    assert swept([("+seed=1", "model={a:1,b:=}"), ("+seed=1", "model={a:2,b:=}")]) == [
        {"model": "{a:1,b:=}"},
        {"model": "{a:2,b:=}"},
    ]
    assert swept([("seed=1",)]) == [{}]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_plans_of_a_sweep_say_what_is_made_once_and_leave_nothing_behind(tmp_path: Path, place: int) -> None:
    arguments = ["seed=1,2", "plan=true"]
    arguments.insert(place, "-m")
    planned = cli(*arguments, cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert re.findall(r"(?m)^corpus +(run|reused) ", planned.stdout) == ["run", "reused"]
    second = planned.stdout.partition("seed=2, demo")[2]
    shared = [line.split()[0] for line in second.splitlines() if "made once, by seed=1" in line]
    assert shared == ["corpus", "tokenizer", "shards", "pairs"]
    # the price of what is shared is counted once
    stages = [int(found) for found in re.findall(r"(\d+) stages; ", planned.stdout)]
    assert stages == [12, 9, 21]
    assert list(tmp_path.iterdir()) == []


def test_faults_of_one_combination_are_named_with_it_before_anything_runs(tmp_path: Path) -> None:
    said = cli("-m", "training.steps=0,3", "seed=1,2", "model.dim=-1", "traning.steps=1", cwd=tmp_path)
    assert said.returncode == 2
    assert "training.steps is 0; it must be at least 1 (with training.steps=0 seed=1; training.steps=0 seed=2)" in (
        said.stderr
    )
    assert "model.dim is -1; it must be at least 1\n" in said.stderr  # in every combination
    assert "did you mean training.steps" in said.stderr
    assert "Traceback" not in said.stderr + said.stdout
    assert list(tmp_path.iterdir()) == []


def test_what_one_combination_lacks_stops_the_sweep_before_it_starts(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    said = cli("-m", "corpus=files", "corpus.path=here,~/not-there-at-all", cwd=tmp_path)
    assert said.returncode == 2
    assert f"{Path.home()}/not-there-at-all" in said.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "here"]


def test_jobs_of_one_sweep_may_have_recipes_of_their_own(tmp_path: Path) -> None:
    two = jobs(tmp_path, (1, 3))
    other = dataclasses.replace(two[1], recipe=dataclasses.replace(two[1].recipe, name="other"))

    def refused(job: Job, plan: Plan, capacity: Capacity, console: Console, tags: Mapping[str, str]) -> Outcome:
        raise ConnectionError("not now")

    assert run_sweep([two[0], other], plan_job, refused) == 1
    assert json.loads((tmp_path / "latest-sweep" / "results.json").read_text())["recipes"] == ["toy", "other"]

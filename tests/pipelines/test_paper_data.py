"""What conf/README.md says of data: its example makes pairs that a recipe reads, and its tables name what there is."""

import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from components.corpus.pair_tables import table_problems, write_given_pairs
from pipelines.compose import compose
from pipelines.keys import groups
from pipelines.programs import FULL

README = (Path(__file__).resolve().parents[2] / "conf" / "README.md").read_text(encoding="utf-8")


def test_the_example_turns_code_contests_into_pairs(tmp_path: Path) -> None:
    """Self-made rows of the data set's schema: lists of languages and of solutions, Python 3 being number 3."""
    folder = tmp_path / "code_contests" / "data"
    folder.mkdir(parents=True)
    for split in ("train", "valid", "test"):
        problems = {
            "name": ["a", "b"],
            "description": [f"{split} sum", f"{split} product"],
            "solutions": [
                {"language": [2, 3, 3], "solution": ["int main(){}", "print(1)", "print(2)"]},
                {"language": [1, 3], "solution": ["print 3", "print(4)"]},
            ],
        }
        pq.write_table(pa.table(problems), folder / f"{split}-00000-of-00001.parquet")
    code = re.search(r"<!-- codecontests -->\n```python\n(.*?)```", README, re.DOTALL)
    assert code is not None
    subprocess.run([sys.executable, "-c", code[1]], cwd=tmp_path, check=True)

    recipe, _ = compose(["conf=codecontests_7b", f"pairs.path={tmp_path / 'codecontests'}"])
    assert table_problems(recipe.pairs) == []
    (tmp_path / "out").mkdir()
    result = write_given_pairs(recipe.pairs, tmp_path / "out", lambda *_: None, lambda _: None)
    assert result.pairs == {"train": 3, "validation": 3, "test": 3}
    rows = pq.read_table(tmp_path / "out" / "validation.parquet").to_pylist()
    assert [(row["prompt"], row["completion"]) for row in rows] == [
        ("valid sum\n", "print(1)"),
        ("valid sum\n", "print(2)"),
        ("valid product\n", "print(4)"),
    ]


def test_the_tables_name_every_recipe_and_every_data_set_with_its_columns() -> None:
    for name in FULL.recipes():
        assert f"\n| `{name}` " in README
    for name in groups()["finetune"]:
        recipe, _ = compose(["conf=summarization_7b", f"finetune={name}"])
        columns = re.search(rf"\n\| `{name}` \| (?:none: )?`(\w+)`, `(\w+)` \|", README)
        assert columns is not None, name
        assert columns.groups() == (recipe.pairs.prompt_column, recipe.pairs.completion_column)

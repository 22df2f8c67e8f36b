"""The page: well formed, from nothing outside itself, escaped, and its numbers the artifacts'."""

import dataclasses
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser

import pytest
from sample_run import Sample

from components.report.charts import spread_out, ticks
from components.report.facts import Step
from components.report.lineage import lanes
from components.report.markup import duration, percent, scaled, scientific, size, tag, times
from components.report.stage import write_report

VARIANTS = {
    "demo": {},
    "one model alone": {"future_tokens": (1,), "finetunes": ()},
    "bytes, replicated": {"future_tokens": (1, 8), "arrangement": "replicated", "finetunes": ()},
    "three n": {"future_tokens": (1, 2, 4), "finetunes": ((1, 1), (4, 4), (4, 1))},
    "many heads": {"future_tokens": (1, 32), "arrangement": "replicated", "finetunes": ()},
    "no next-token model": {"future_tokens": (2,), "finetunes": ((2, 2),)},
    "no benchmark": {"benchmarks": False},
    "one logged step": {"steps": 10},
    "a mixture": {"mixture": True},
    "looks at held-out text while training": {"looks": True},
    "looks in a scaling study": {"looks": True, "sizes": ("1m", "3m"), "future_tokens": (1, 2)},
    "one look": {"looks": True, "steps": 100},
    "scaling study": {"sizes": ("1m", "3m", "9m"), "future_tokens": (1, 2, 4), "finetunes": ((4, 1),)},
    "scaling study on bytes": {
        "sizes": ("1m", "3m"), "future_tokens": (1, 8), "arrangement": "replicated", "finetunes": (),
    },
    "scaling study of one size": {"sizes": ("1m",)},
    "scaling study without a next-token model": {"sizes": ("1m", "3m"), "future_tokens": (2,), "finetunes": ()},
    "given pairs": {"pairs_from": "table"},
    "arrangements": {
        "arrangements": ("linear", "anticausal", "causal", "parallel", "parallel_extra_layers"), "finetunes": ((4, 1),),
    },
    "arrangements, each n": {"arrangements": ("linear", "causal"), "future_tokens": (1, 2, 4), "finetunes": ()},
    "arrangements without a next-token model": {
        "arrangements": ("causal", "replicated"), "future_tokens": (2,), "finetunes": (), "benchmarks": False,
    },
    "one arrangement": {"arrangements": ("parallel_extra_layers",), "future_tokens": (1, 2), "finetunes": ()},
}  # fmt: skip


def _page(sample: Sample) -> str:
    report = write_report(sample.config, sample.checkpoints, sample.evaluations, sample.benchmarks, sample.run)
    return (report.path / "index.html").read_text()


class Outline(HTMLParser):
    """Checks that elements nest, and collects text, ids and what would be fetched."""

    VOID = ("meta", "br", "hr")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.ids: list[str] = []
        self.fetched: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.note(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.note(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    def note(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "img", "iframe", "object")
        self.fetched += [(k, v) for k, v in attrs if k in ("src", "href", "xlink:href", "data") or k.startswith("on")]
        self.ids += [v for k, v in attrs if k == "id" and v]


def _outline(html: str) -> Outline:
    outline = Outline()
    outline.feed(html)
    outline.close()
    assert outline.open == []
    return outline


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_every_kind_of_run_makes_a_well_formed_page_of_its_own(
    options: dict[str, object], sample: Callable[..., Sample]
) -> None:
    html = _page(sample(**options))
    outline = _outline(html)
    assert outline.fetched == []
    assert not re.search(r"url\((?!#)|@import|https?://|//cdn", html)
    assert len(set(outline.ids)) == len(outline.ids)
    for reference in re.findall(r"url\(#([^)]+)\)", html):
        assert reference in outline.ids
    assert "None" not in "".join(outline.text)
    assert "nan" not in re.findall(r"[a-z]+", "".join(outline.text).lower())


@pytest.mark.parametrize("options", [{}, VARIANTS["three n"], VARIANTS["scaling study"], VARIANTS["arrangements"]])
def test_numbers_on_the_page_are_those_of_the_artifacts(
    options: dict[str, object], sample: Callable[..., Sample]
) -> None:
    made = sample(**options)
    text = " ".join(_outline(_page(made)).text)
    for checkpoint in made.checkpoints:
        if checkpoint.n_pretrained is None:
            assert f"{checkpoint.parameters:,}" in text
            assert scientific(checkpoint.training_flops) in text
            assert f"{checkpoint.tokens:,}" in text
    for evaluation in made.evaluations:
        assert f"{evaluation.heads[0].loss:.4f}" in text
        if evaluation.line_completion:
            assert f"{evaluation.bits_per_byte:.4f}" in text
            assert percent(evaluation.line_completion.exact_match) in text
            for head in evaluation.heads:
                assert f"{head.loss:.4f}" in text
                assert percent(head.top1) in text
        if evaluation.body_completion:
            assert f"{evaluation.body_completion.edit_similarity:.3f}" in text
    for row in (row for benchmark in made.benchmarks for row in benchmark.rows if row.k > 1):
        assert times(row.speedup) in text
        assert f"{row.speedup_low:.2f} to {row.speedup_high:.2f}" in text
        assert f"{row.tokens_per_forward:.2f}" in text
        assert f"{row.tokens_per_second:,.0f}" in text
        assert percent(row.repeated_4grams) in text
    for fact in ("1,407", "27.5 MB", "9,583,143", "exact duplicate", "229", "2.871", "all 104 validation documents"):
        assert fact in text
    for record in made.run.lineage:
        assert record.title in text
        assert duration(record.seconds) in text


def test_what_was_seen_while_training_is_drawn_where_it_was_looked_for(sample: Callable[..., Sample]) -> None:
    """12 looks over 1,200 steps, whose numbers say head and step."""
    html = _page(sample(looks=True))
    (part,) = re.findall(r'<section id="held-out-while-training">.*?</section>', html, re.DOTALL)
    assert part.count("<figure>") == 3
    for head in (1, 2, 3, 4):
        assert f">head {head}  {9 + head - 1.2:.2f}<" in part
        assert f"head {head}  {9 + head - 1.2:.2f}, step 700: {9 + head - 0.7:.3f}" in part
    assert re.search(r">n\s=\s4  1\.36<", part)
    assert not re.search(r">n\s=\s1  1\.00<", part), "one head has nothing to be accepted"


def test_without_looks_there_is_no_such_part(sample: Callable[..., Sample]) -> None:
    assert "while training" not in _page(sample())


def test_text_from_data_is_escaped_everywhere(sample: Callable[..., Sample]) -> None:
    evil = '</pre></span><script>alert("x")</script><img src=x onerror=y>&amp;'
    made = sample(text=evil)
    made = dataclasses.replace(made, config=dataclasses.replace(made.config, recipe=evil, overrides=(evil,)))
    outline = _outline(_page(made))
    text = "".join(outline.text)
    assert text.count(evil) > 10  # shown as it is, understood as text


def test_a_loss_of_losslessness_is_said_in_every_place(sample: Callable[..., Sample]) -> None:
    made = sample()
    assert "NOT" not in " ".join(_outline(_page(made)).text)
    rows = tuple(dataclasses.replace(row, lossless=row.k == 1) for row in made.benchmarks[0].rows)
    text = " ".join(_outline(_page(dataclasses.replace(made, benchmarks=(
        dataclasses.replace(made.benchmarks[0], rows=rows),
    )))).text)  # fmt: skip
    for words in ("NOT lossless", "but NOT with the same output", "NOT every arm gave"):
        assert words in text
    assert len(re.findall(r"\bNO\b", text)) == 6


def test_a_difference_within_what_windows_of_text_tell_is_called_none(sample: Callable[..., Sample]) -> None:
    made = sample()
    one, four = (e for e in made.evaluations if e.line_completion)
    assert "±" not in " ".join(_outline(_page(made)).text)
    for noise, words in (
        (0.0001, f"{percent(four.bits_per_byte / one.bits_per_byte - 1)} (± 0.0) more bits per byte"),
        (1.0, "n = 4 needs as many bits per byte of unseen text as n = 1, as far as 40 windows of it can tell"),
    ):
        for evaluation in (one, four):
            sign = noise * (evaluation is four)
            rows = [[1000 * (evaluation.bits_per_byte + sign * (-1) ** i), 1000] for i in range(40)]
            (evaluation.path / "windows.json").write_text(json.dumps(rows))
        text = " ".join(_outline(_page(made)).text).replace("\N{NO-BREAK SPACE}", " ")
        assert words in text
        assert "interval over 40 windows of test text" in text


def test_what_a_stage_warned_of_stands_on_the_page(sample: Callable[..., Sample]) -> None:
    made = sample()
    assert "To read with care" not in " ".join(_outline(_page(made)).text)
    first, *rest = made.run.lineage
    warned = dataclasses.replace(first, warnings=("left out as damaged: 5 broken row",))
    run = dataclasses.replace(made.run, lineage=(warned, *rest))
    text = " ".join(_outline(_page(dataclasses.replace(made, run=run))).text)
    assert "To read with care" in text
    assert f"{first.title}: left out as damaged: 5 broken row" in text


def test_unequal_parameters_are_printed(sample: Callable[..., Sample]) -> None:
    text = " ".join(_outline(_page(sample(future_tokens=(1, 8), arrangement="replicated", finetunes=()))).text)
    assert "+231,168 (11.0 %)" in text
    assert "11.0 % more parameters" in text


def test_one_seed_is_said_to_be_one_seed_and_what_was_reused_to_be_reused(sample: Callable[..., Sample]) -> None:
    text = " ".join(_outline(_page(sample())).text)
    assert "One seed (3) for each model" in text
    assert "2 of 13 stages reused" in text
    assert "python pipelines/full.py conf=demo" in text


def test_differences_in_a_scaling_study_are_to_the_next_token_model_of_the_same_size(
    sample: Callable[..., Sample],
) -> None:
    made = sample(**VARIANTS["scaling study"])
    html = _page(made)
    part = html[html.index('<section id="scaling">') :]
    part = part[: part.index("</section>")]
    of = made.config.sizes
    assert of is not None
    bits = {
        (at, e.n_future_tokens): e.bits_per_byte
        for at, e in zip(of.evaluations, made.evaluations, strict=True)
        if e.n_pretrained is None
    }
    charts = part.split("<svg")[1:]
    assert len(charts) == 2
    for at in ("1m", "3m", "9m"):
        for n in (2, 4):
            difference = bits[at, n] - bits[at, 1]
            assert f"{difference:+.4f}".replace("-", "−") in part
            assert f"n = {n}, parameters {at}: {-difference:.4f}</title>" in charts[0]
    # Table S7, MBPP pass@1: 13B goes from 26.0 to 30.5 with n = 4, 0.3B from 1.8 to 1.0
    assert "n = 4, parameters 13B: 4.5</title>" in charts[1]
    assert "n = 4, parameters 0.3B: -0.8</title>" in charts[1]
    text = " ".join(_outline(html).text)
    first, last = bits["1m", 4] / bits["1m", 1], bits["9m", 4] / bits["9m", 1]
    assert first > 1 > last
    assert f"{percent(first - 1)} more bits per byte of unseen text" in text
    assert f"{percent(1 - last)} fewer at 9m" in text


def test_arrangements_stand_side_by_side_and_beside_the_paper_s_table(sample: Callable[..., Sample]) -> None:
    made = sample(**VARIANTS["arrangements"])
    html = _page(made).replace("\N{NO-BREAK SPACE}", " ")
    part = html[html.index('<section id="arrangements">') :]
    part = part[: part.index("</section>")]
    rows = [re.sub(r"<[^>]+>", "|", row) for row in part.split("<tr>")[2:]]
    assert len(rows) == 6
    of = made.config.arrangements
    assert of is not None
    evaluations = {name: e for name, e in zip(of.evaluations, made.evaluations, strict=True) if e.n_pretrained is None}
    benchmarks = dict(zip(of.benchmarks, made.benchmarks, strict=True))
    # Table S4: pass@1 on MBPP and HumanEval, and by how much that is more than 30.0 and 22.8
    paper = {
        "linear": ("33.6 %", "+3.6", "21.9 %", "−0.9"),
        "anticausal": ("30.8 %", "+0.8", "20.9 %", "−1.9"),
        "causal": ("31.9 %", "+1.9", "20.9 %", "−1.9"),
        "parallel": ("33.8 %", "+3.8", "24.0 %", "+1.2"),
        "parallel_extra_layers": ("33.3 %", "+3.3", "22.4 %", "−0.4"),
    }
    assert "|n = 1|" in rows[0]
    assert "30.0 %" in rows[0]
    base = evaluations[""].bits_per_byte
    for (name, published), row in zip(paper.items(), rows[1:], strict=True):
        assert f"|{name.replace('_extra_layers', ' + 3 layers')}|" in row
        assert all(cell in row for cell in published)
        assert f"{evaluations[name].bits_per_byte:.4f}" in row
        assert f"+{evaluations[name].bits_per_byte - base:.4f}" in row
        first = [r for r in benchmarks[name].rows if r.batch == 1]
        assert times(max(r.speedup for r in first)) in row
    assert "+99,072 (4.7 %)" in rows[5], "more parameters, where they are not equal"
    assert not any("(4.7 %)" in row for row in rows[:5])


def test_arrangements_are_told_apart_in_results_and_colours(sample: Callable[..., Sample]) -> None:
    made = sample(**VARIANTS["arrangements"])
    report = write_report(made.config, made.checkpoints, made.evaluations, made.benchmarks, made.run)
    results = json.loads((report.path / "results.json").read_text())
    names = ("linear", "anticausal", "causal", "parallel", "parallel_extra_layers")
    assert [model["key"] for model in results["models"]] == ["n1", *(f"{name}/n4" for name in names)]
    assert [model["extra_layers"] for model in results["models"]] == [False] * 5 + [True]
    bits = [e.bits_per_byte for e in made.evaluations if e.n_pretrained is None]
    assert [model["bits_per_byte"] for model in results["models"]] == bits
    assert len(set(bits)) == 6
    for name, benchmark in zip(names, made.benchmarks, strict=True):
        assert report.headline[f"{name}/n4/speedup"] == max(r.speedup for r in benchmark.rows if r.batch == 1)
        assert [r["speedup"] for r in results["decoding"] if r["arrangement"] == name] == [
            r.speedup for r in benchmark.rows
        ]
    html = (report.path / "index.html").read_text()
    assert all(f"var(--s{i})" in html and html.count(f"--s{i}: #") == 2 for i in range(6))


def test_the_paper_s_points_stand_beside_tokens_and_not_beside_bytes(sample: Callable[..., Sample]) -> None:
    text = " ".join(_outline(_page(sample(**VARIANTS["scaling study on bytes"]))).text)
    assert "What more heads change" in text
    assert "Beside the paper's Table S7" not in text


def test_given_pairs_are_not_called_functions(sample: Callable[..., Sample]) -> None:
    text = " ".join(_outline(_page(sample(**VARIANTS["given pairs"]))).text)
    assert "from a given prompt to its completion" in text
    assert "bodies" not in text


def test_rails_of_the_dag_never_share_a_lane_on_a_row(sample: Callable[..., Sample]) -> None:
    steps = [
        Step(r.name, r.title, r.inputs, r.reused, r.seconds, r.config, r.artifact, r.machine)
        for r in sample(future_tokens=(1, 2, 4)).run.lineage
    ]
    lane = lanes(steps)
    row = {step.name: i for i, step in enumerate(steps)}
    busy: set[tuple[int, int]] = set()
    for i in range(len(steps)):
        last = max([i, *(row[s.name] for s in steps if steps[i].name in s.inputs)])
        mine = {(lane[i], r) for r in range(i, last + 1)}
        assert not busy & mine
        busy |= mine


def test_numbers_read_as_people_write_them() -> None:
    assert scaled(2_104_448) == "2.10 M"
    assert scaled(999_999) == "1.00 M"
    assert scaled(512) == "512"
    assert size(27_513_204) == "27.5 MB"
    assert size(12) == "12 B"
    assert scientific(3.71e13) == "3.71 × 10¹³"
    shown = [duration(seconds) for seconds in (0.04, 9.97, 59.7, 431.7, 7800)]
    assert shown == ["0.0 s", "10 s", "1 min 00 s", "7 min 12 s", "2 h 10 min"]
    assert times(-0.5) == "−0.50×"


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(1.93, 7.2) == [2, 4, 6]
    assert ticks(0.001, 0.0034) == [0.001, 0.0015, 0.002, 0.0025, 0.003]


def test_labels_keep_their_order_and_distance() -> None:
    placed = spread_out([100, 101, 20, 102], 0, 105, gap=10)
    assert sorted(placed) == [placed[2], placed[0], placed[1], placed[3]]
    assert min(b - a for a, b in zip(sorted(placed), sorted(placed)[1:], strict=False)) >= 10 - 1e-9
    assert max(placed) <= 105


def test_plain_strings_are_escaped_and_markup_is_not() -> None:
    assert tag("p", "<b>", tag("i", '"&'), title='"') == '<p title="&quot;">&lt;b&gt;<i>&quot;&amp;</i></p>'

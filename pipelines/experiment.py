"""The recipe of an experiment: a grid of small trainings, one for each size, schedule and seed (`pipelines.synthetic`).

Plain frozen dataclasses, as in `pipelines.recipe`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from components.corpus.config import CorpusConfig
from components.model.config import Arrangement, ModelConfig
from components.shards.config import MAX_LOOKAHEAD, ShardsConfig
from components.synthetic.config import InductionConfig, PathStarConfig, PolynomialConfig, TaskConfig, TextConfig
from components.tokenizer.config import TokenizerConfig
from components.training.config import Curriculum, PretrainConfig, TrainingConfig
from pipelines.recipe import ClusterSettings, Size, faults_of_names

TaskName = Literal["induction", "polynomial", "path_star", "text"]


@dataclass(frozen=True)
class Schedule:
    """A way to train that is compared beside the plain ones of `future_tokens`."""

    n_future_tokens: int = 1
    """Prediction heads."""
    arrangement: Arrangement | None = None
    """How the heads hang together, as in `model.arrangement`; null: as the size has it."""
    head_weights: tuple[float, ...] | None = None
    """Weight of each head's loss, the nearest token's first; null: as the size's training has them."""
    curriculum: Curriculum | None = None
    """How many heads count as training goes on, as in `training.curriculum`; null: as the size's training has it."""
    steps_ratio: float = 1.0
    """Steps over those of the size: above 1 it sees more tokens."""

    def __post_init__(self) -> None:
        faults = []
        if not 1 <= self.n_future_tokens <= MAX_LOOKAHEAD:
            faults.append(f"n_future_tokens is {self.n_future_tokens}; it must be 1 to {MAX_LOOKAHEAD}")
        if not 0 < self.steps_ratio < float("inf"):
            faults.append(f"steps_ratio is {self.steps_ratio}; it must be above 0")
        if faults:
            raise ValueError("\n".join(faults))


@dataclass(frozen=True)
class CellPlan:
    """One training of the grid."""

    size: str
    schedule: str
    """Empty for a plain one."""
    n_future_tokens: int
    seed: int
    model: ModelConfig
    training: TrainingConfig

    @property
    def name(self) -> str:
        """The telling part of its node's name."""
        return f"{self.size}-{self.schedule or f'n{self.n_future_tokens}'}-seed{self.seed}"

    @property
    def group(self) -> str:
        """What a plan adds it up with."""
        return f"{self.size} {self.schedule or f'n={self.n_future_tokens}'}"


@dataclass(frozen=True)
class Experiment:
    """A task, and what is trained on it: every size with every n and every schedule, from every seed."""

    name: str = "induction_small"
    """Names the run's folder and its MLflow run."""
    task: TaskName = "induction"
    """What is learned: `induction`, `polynomial` and `path_star` are made as training goes, `text` is a corpus."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds of initial weights and training data; intervals are over them. Tests are the same for all."""
    future_tokens: tuple[int, ...] = (1, 2)
    """The n to compare."""
    schedules: Mapping[str, Schedule] = field(default_factory=dict)
    """Further ways to train, by name, each with fields of its own, such as `schedules.light.head_weights=[1,0.3]`."""
    sizes: Mapping[str, Size] = field(default_factory=dict)
    """Names of sizes, each with a `model` and a `training` and all their fields, such as `sizes.3m.training.steps`."""
    leave_out: tuple[str, ...] = ()
    """Names of sizes and schedules to do without, such as `leave_out=[3m,light]`."""
    looks: int = 10
    """How often at most the test is taken while training, at equal distances; and at the end, which is the result."""
    test_items: int = 500
    """Examples in each part of the test: different ones, or as many as there are; of polynomials as they are drawn. Of
    the task `text`, see `text`."""
    induction: InductionConfig = field(default_factory=InductionConfig)
    polynomial: PolynomialConfig = field(default_factory=PolynomialConfig)
    path_star: PathStarConfig = field(default_factory=PathStarConfig)
    text: TextConfig = field(default_factory=TextConfig)
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    """Of the task `text`, as in a recipe; so are `tokenizer` and `shards`."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    shards: ShardsConfig = field(default_factory=ShardsConfig)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)

    def __post_init__(self) -> None:
        faults = [*self._faults_of_lists(), *self._faults_of_names(), *self._faults_of_tasks()]
        if not faults:
            faults = [*self._faults_of_cells()]
        if faults:
            raise ValueError("\n".join(faults))

    def _faults_of_lists(self) -> Iterator[str]:
        if self.task not in get_args(TaskName):
            yield f"task is {self.task!r}; there are {', '.join(get_args(TaskName))}"
        for name in ("seeds", "future_tokens"):
            values = getattr(self, name)
            if not values and not (name == "future_tokens" and self.schedules):
                yield f"{name} is empty; give a list, such as {name}=[1,2]"
            if len(set(values)) != len(values):
                yield f"{name} is {list(values)}; each may stand once"
        if any(not 1 <= n <= MAX_LOOKAHEAD for n in self.future_tokens):
            yield f"future_tokens is {list(self.future_tokens)}; each n must be 1 to {MAX_LOOKAHEAD}"
        if any(seed < 0 for seed in self.seeds):
            yield f"seeds is {list(self.seeds)}; each must be at least 0"
        for name in ("looks", "test_items"):
            if getattr(self, name) < 1:
                yield f"{name} is {getattr(self, name)}; it must be at least 1"
        if self.cluster.training.sharding != "none" or self.cluster.training.workers > 1:
            yield "cluster.training: a cell is one worker with the whole model; give workers=1 and sharding=none"
        if self.cluster.training.evaluate_every:
            yield "cluster.training.evaluate_every is given; the test of an experiment is taken `looks` times instead"
        if unknown := [name for name in self.leave_out if name not in {*self.sizes, *self.schedules}]:
            yield f"leave_out has {', '.join(unknown)}; there are {', '.join([*self.sizes, *self.schedules])}"

    def _faults_of_tasks(self) -> Iterator[str]:
        """What another task than this one would need."""
        for name in ("induction", "polynomial", "path_star", "text", "corpus", "tokenizer", "shards"):
            of_text = name in ("corpus", "tokenizer", "shards")
            given = getattr(self, name) != type(getattr(self, name))()
            if given and name != self.task and not (of_text and self.task == "text"):
                yield f"{name} is given, but task is {self.task}, which does not use it: leave it out"
        if self.task == "text" and self.test_items != Experiment.test_items:
            yield "test_items is given, but task is text: give text.heldout_tokens and text.stories"
        if self.task != "text":
            return
        if self.text.stories and self.tokenizer.kind == "bytes":
            yield "text.stories needs names of two tokens, which a tokenizer of kind bytes has not: take sentencepiece"
        if self.text.stories_of is not None and self.text.stories_of not in self.corpus.mixture:
            there = ", ".join(self.corpus.mixture) or "no mixture"
            yield f"text.stories_of is {self.text.stories_of!r}; corpus.mixture has {there}: give one of its parts"

    def _faults_of_names(self) -> Iterator[str]:
        yield from faults_of_names(self.name, sizes=self.sizes, schedules=self.schedules)
        for name in self.schedules:
            if re.fullmatch(r"n\d+", name):
                yield f"schedules has {name!r}, which is what a plain one of future_tokens is called"

    def _faults_of_cells(self) -> Iterator[str]:
        longest = 0 if isinstance(self.definition, TextConfig) else self.definition.longest
        for name, size in self.sizes.items():
            if size.training.context_length < longest and name not in self.leave_out:
                yield (
                    f"sizes.{name}.training.context_length is {size.training.context_length}, less than the longest "
                    f"example of the task, {longest} tokens: give at least that"
                )
        try:
            planned = list(self.cells() if self.sizes else ())  # the defaults of a recipe have none yet
        except ValueError as error:
            yield from str(error).splitlines()
            return
        if self.sizes and not planned:
            yield "nothing is left to train: leave_out names all sizes, or all schedules while future_tokens is empty"
        first: dict[tuple[ModelConfig, TrainingConfig], str] = {}
        for cell in planned[: len(planned) // max(1, len(self.seeds))]:
            known = first.setdefault((cell.model, cell.training), cell.group)
            if known != cell.group:
                yield f"{cell.group} is the same training as {known}: change one, or leave it out"

    @property
    def definition(self) -> TaskConfig | TextConfig:
        """What decides the task's examples, or what is measured of text."""
        found: TaskConfig | TextConfig = getattr(self, self.task)
        return found

    @property
    def vocabulary_size(self) -> int:
        """Symbols of the task, or of the tokenizer."""
        task = self.definition
        return self.tokenizer.size if isinstance(task, TextConfig) else task.vocabulary_size

    def ways(self) -> Iterator[tuple[str, Schedule]]:
        """Plain ones of every n, without a name, then the schedules."""
        yield from (("", Schedule(n)) for n in self.future_tokens)
        yield from ((name, way) for name, way in self.schedules.items() if name not in self.leave_out)

    def cells(self) -> Iterator[CellPlan]:
        """The grid, a seed after the other: so that early results compare everything. ValueError, naming the size and
        the way to train, where a model cannot be."""
        if not self.sizes:
            raise ValueError("sizes is empty; an experiment needs one at least, as the recipes in conf/ have")
        for seed in self.seeds:
            for size, of in self.sizes.items():
                if size in self.leave_out:
                    continue
                for name, way in self.ways():
                    try:
                        yield self._cell(seed, size, of, name, way)
                    except ValueError as error:
                        at = f"sizes.{size} with {name or f'n = {way.n_future_tokens}'}"
                        raise ValueError("\n".join(f"{at}: {line}" for line in str(error).splitlines())) from None

    def _cell(self, seed: int, size: str, of: Size, name: str, way: Schedule) -> CellPlan:
        n = way.n_future_tokens
        arrangement = way.arrangement or of.model.arrangement
        model = replace(of.model, n_future_tokens=n, vocabulary_size=self.vocabulary_size, arrangement=arrangement)
        if n == 1 and model.arrangement != "replicated":  # one head is the ordinary model in any arrangement
            model = replace(model, arrangement="parallel", extra_layers=False)
        training = replace(
            of.training,
            seed=seed,
            steps=max(1, round(way.steps_ratio * of.training.steps)),
            head_weights=way.head_weights or of.training.head_weights,
            curriculum=way.curriculum or of.training.curriculum,
        )
        PretrainConfig(model, training)  # which refuses what does not go together
        return CellPlan(size, name, n, seed, model, training)


DERIVED_OF_EXPERIMENT = {
    "model.n_future_tokens": "future_tokens=[1,2] lists the n to compare, a schedule has its own",
    "model.vocabulary_size": "the task sets it, or tokenizer.vocabulary_size",
    "training.seed": "seeds=[1,2,3] lists them",
}
"""Fields that an experiment derives; they cannot be given, and the message says what to give instead."""

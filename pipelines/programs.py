"""The programs that run recipes, each with its kind of recipe."""

from components.corpus.config import PartConfig
from components.model.config import ModelConfig
from components.training.config import TrainingConfig
from pipelines.experiment import DERIVED_OF_EXPERIMENT, Experiment, Schedule
from pipelines.keys import Program
from pipelines.recipe import DERIVED, Recipe, Size

SIZE = Size(ModelConfig(), TrainingConfig())
FULL = Program(
    Recipe,
    mark=None,
    default_recipe="demo",
    about="Headstart: train language models that predict several tokens at once, and measure what it buys.",
    derived_fields=DERIVED,
    named={"sizes": SIZE, "corpus.mixture": PartConfig()},
)
SYNTHETIC = Program(
    Experiment,
    mark="task",
    default_recipe="induction_small",
    about="Headstart: grids of small trainings, of each size, number of heads and seed one, that show what several\n"
    "tokens at once change where the answer is known.",
    derived_fields=DERIVED_OF_EXPERIMENT,
    named={"sizes": SIZE, "corpus.mixture": PartConfig(), "schedules": Schedule()},
)

"""The task of a config."""

from components.synthetic.config import InductionConfig, PolynomialConfig, TaskConfig
from components.synthetic.examples import Task
from components.synthetic.induction import Induction
from components.synthetic.path_star import PathStar
from components.synthetic.polynomials import Polynomials


def task_of(config: TaskConfig) -> Task:
    """Examples and test of a task."""
    if isinstance(config, InductionConfig):
        return Induction(config)
    return Polynomials(config) if isinstance(config, PolynomialConfig) else PathStar(config)

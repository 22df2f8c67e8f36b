"""Whether torch.compile can work here."""

from components.training.config import TrainingExecution

HAS_COMPILER = TrainingExecution(compile=True).lacks_compiler is None

"""`plan=simulate`: what each device holds and sends in a step of every training of a plan, beside the closed form."""

import dataclasses
from collections.abc import Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from components.flow.cost import Capacity, Cost
from components.flow.plan import NodePlan, Plan
from components.flow.quantity import size
from components.flow.table import WIDE
from components.model.config import ModelConfig
from components.synthetic.config import CellConfig, TextCellConfig
from components.training.config import FinetuneConfig, PretrainConfig, TrainingConfig, TrainingExecution
from components.training.memory import training_memory

Setting = tuple[ModelConfig, TrainingConfig, TrainingExecution]

KINDS = ("all_gather", "reduce_scatter", "all_reduce")

EXPLANATION = (
    "Peak: live tensors of one device, simulated, and by the closed form that the plan goes by. Collectives: how "
    "often, and bytes of whole tensors. Sent: by each device, on a ring."
)
HEADS = ("devices", "micro-batches", "peak", "closed form", "of", *KINDS, "sent")


def simulated_table(plans: Sequence[Plan], capacity: Capacity, width: int = WIDE) -> RenderableType:
    """Simulate the trainings of some plans, a word on the way about each. NotSimulated where torch cannot.

    What does not differ but in its seed is simulated once.
    """
    from components.training.simulate import simulate

    titles: dict[Setting, list[str]] = {}
    for plan in plans:
        for row, setting in _trainings(plan):
            titles.setdefault(setting, []).append(row.node.title)
    lines: list[tuple[str, list[Text]]] = []
    terminal = Console(stderr=True, highlight=False)
    for place, (setting, names) in enumerate(titles.items(), start=1):
        title = ", ".join(dict.fromkeys(names))
        with terminal.status(f"simulating {title}, {place} of {len(titles)}"):
            if not terminal.is_terminal:
                terminal.print(f"simulating {title}, {place} of {len(titles)}", soft_wrap=True)
            step = simulate(*setting)
        execution = setting[2]
        planned = sum(training_memory(*setting).values())
        room = capacity.room(Cost(workers=execution.workers, on_gpu=execution.gpus_per_worker > 0))
        too_much = room is not None and step.peak_bytes > room
        cells = [
            Text(str(step.workers)),
            Text(str(step.micro_batches)),
            Text(size(step.peak_bytes), style="red" if too_much else ""),
            Text(size(planned)),
            Text("" if room is None else size(room)),
            *(_number_and_bytes(*step.total(kind)[:2]) for kind in KINDS),
            Text(size(step.total()[2]) if step.workers > 1 else ""),
        ]
        lines.append((title, cells))
    return Group(_in_columns(lines) if width >= WIDE else _in_words(lines), Text(EXPLANATION, style="dim"))


def _in_columns(lines: Sequence[tuple[str, list[Text]]]) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("a step, simulated")
    for head in HEADS:
        table.add_column(head, no_wrap=True, justify="right")
    for title, cells in lines:
        table.add_row(title, *cells)
    return table


def _in_words(lines: Sequence[tuple[str, list[Text]]]) -> RenderableType:
    """For a terminal without room for the columns."""
    return Group(
        *(
            Text.assemble(
                f"{title}, a step, simulated: ",
                Text(", ").join(
                    Text.assemble(f"{head} ", cell) for head, cell in zip(HEADS, cells, strict=True) if cell
                ),
            )
            for title, cells in lines
        )
    )


def _trainings(plan: Plan) -> Iterator[tuple[NodePlan, Setting]]:
    """The stages that train, and what of them decides on memory and communication."""
    for row in plan.nodes:
        config, execution = row.node.config, row.node.execution or TrainingExecution()
        if isinstance(config, PretrainConfig | CellConfig | TextCellConfig):
            yield row, (config.model, dataclasses.replace(config.training, seed=0), execution)
        elif isinstance(config, FinetuneConfig):
            yield row, (ModelConfig(**row.known["model"]), dataclasses.replace(config, seed=0), execution)


def _number_and_bytes(number: int, n_bytes: int) -> Text:
    return Text(f"{number:,} x, {size(n_bytes)}" if number else "")

"""A recipe: everything that decides what the pipeline makes (`Recipe`), and how it was asked to run (`Options`).

Plain frozen dataclasses are the truth; YAML in `conf/` and the command line only fill them (`pipelines.compose`).
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from components.corpus.config import CorpusConfig, PairsConfig
from components.decoding.config import DecodingConfig
from components.evaluation.config import EvaluationConfig
from components.flow.cost import Device
from components.model.config import LAYER_ARRANGEMENTS, Arrangement, ModelConfig
from components.shards.config import MAX_LOOKAHEAD, DataExecution, ShardsConfig
from components.tokenizer.config import TokenizerConfig
from components.training.config import FinetuneConfig, TrainingConfig, TrainingExecution

H100 = Device("H100", 989e12, 67e12, 3.35e12, 0.4, 76_000_000_000)
CPU = Device("CPU core with AVX-512", 220e9, 100e9, 15e9, 0.5)

ARRANGEMENTS: Mapping[str, Mapping[str, Any]] = {
    name: {"arrangement": name, "extra_layers": False} for name in get_args(Arrangement)
} | {f"{name}_extra_layers": {"arrangement": name, "extra_layers": True} for name in LAYER_ARRANGEMENTS}
"""What `arrangements` may list, and the fields of a model that it stands for."""


@dataclass(frozen=True)
class ClusterSettings:
    """Where and on how much to run. Changes no result's identity."""

    address: str | None = None
    """None starts a Ray of its own on this machine; `auto` or `host:port` joins a running one."""
    dashboard_port: int = 8265
    """First port to try for the dashboard of a Ray of its own."""
    nodes: int | None = None
    """Nodes of the cluster that a plan reckons with; null: this machine alone. Checked once connected."""
    node_cpus: int | None = None
    """CPU cores of each node; null: as many as here."""
    node_gpus: int | None = None
    """GPUs of each node; null: as many as here."""
    node_memory_bytes: int | None = None
    """Main memory of each node; null: as much as here."""
    gpu: Device = H100
    """The kind of GPU and its rates."""
    cpu: Device = CPU
    """The kind of processor and its rates, by core."""
    training: TrainingExecution = field(default_factory=TrainingExecution)
    data: DataExecution = field(default_factory=DataExecution)

    def __post_init__(self) -> None:
        faults = []
        if not 1 <= self.dashboard_port <= 65535:
            faults.append(f"dashboard_port is {self.dashboard_port}; it must be a port, 1 to 65535")
        for name, least in (("nodes", 1), ("node_cpus", 1), ("node_gpus", 0), ("node_memory_bytes", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                faults.append(f"{name} is {value}; it must be at least {least}, or null")
        if faults:
            raise ValueError("\n".join(faults))


def faults_of_names(name: str, **parts: Iterable[str]) -> Iterator[str]:
    """What is wrong with a recipe's name, and with those of parts of it, by the field that has them."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        yield f"name is {name!r}; it names a folder: letters, digits, '_', '-' and '.' only"
    for field_, names in parts.items():
        for part in names:
            if not re.fullmatch(r"[A-Za-z0-9]\w*", part):
                yield f"{field_} has {part!r}; such a name is part of stages' names: letters, digits and '_' only"


@dataclass(frozen=True)
class Size:
    """One size of a scaling study (paper 3.1)."""

    model: ModelConfig
    """The model's shape."""
    training: TrainingConfig
    """How it is trained."""


@dataclass(frozen=True)
class Recipe:
    """What to make: data, models to compare, and what to measure on them."""

    name: str = "demo"
    """Names the run's folder and its MLflow run."""
    seed: int = 1
    """Seed of initial weights, data order and fine-tuning. Corpus and evaluation samples have their own, so that
    seeds are compared on the same data."""
    future_tokens: tuple[int, ...] = (1, 4)
    """The n to compare: one model is trained for each, in a scaling study for each at every size."""
    arrangements: tuple[str, ...] = ()
    """A study of how prediction heads hang together (paper Appendix B, Table S4): every n above 1 is trained in each of
    these, n = 1 once. Names are those of `model.arrangement`, with `_extra_layers` behind for `model.extra_layers`.
    Empty: `model` says it."""
    finetunes: tuple[tuple[int, int], ...] = ((1, 1), (4, 1))
    """Fine-tuned models as (n of the pretrained model, n' of the fine-tuned one) (paper 3.6)."""
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    pairs: PairsConfig = field(default_factory=PairsConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    shards: ShardsConfig = field(default_factory=ShardsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    sizes: Mapping[str, Size] = field(default_factory=dict)
    """A scaling study: names of sizes, each with a `model` and a `training` of its own and all their fields, such as
    `sizes.3b.training.steps`. Empty: `model` and `training` are the only size."""
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)

    def __post_init__(self) -> None:
        faults = [*self._faults_of_names(), *self._faults_of_heads(), *self._faults_of_arrangements()]
        for name in self.by_size():
            faults += self._faults_of_size(name)
        faults += self._faults_of_finetunes()
        if faults:
            raise ValueError("\n".join(faults))

    def _faults_of_names(self) -> Iterator[str]:
        yield from faults_of_names(self.name, sizes=self.sizes)
        if self.sizes and (self.model, self.training) != (ModelConfig(), TrainingConfig()):
            yield (
                f"model or training is given beside sizes, which have their own ({', '.join(self.sizes)}): "
                "give sizes.NAME.model and sizes.NAME.training instead"
            )

    def _faults_of_heads(self) -> Iterator[str]:
        if not self.future_tokens:
            yield "future_tokens is empty; it lists the n to compare, such as [1,4]"
        if len(set(self.future_tokens)) != len(self.future_tokens):
            yield f"future_tokens is {list(self.future_tokens)}; each n may stand once"
        if max(self.future_tokens, default=1) > MAX_LOOKAHEAD:
            yield f"future_tokens is {list(self.future_tokens)}; each n may be {MAX_LOOKAHEAD} at most"
        fewest = min((n for n in self.future_tokens if n > 1), default=MAX_LOOKAHEAD)
        if self.decoding.heads and min(self.decoding.heads) > fewest:
            yield (
                f"decoding.heads is {list(self.decoding.heads)}, more than a model of future_tokens "
                f"{list(self.future_tokens)} has; list at least one k that each model has, or null for all"
            )

    def _faults_of_arrangements(self) -> Iterator[str]:
        if not self.arrangements:
            return
        given = f"arrangements is {list(self.arrangements)}"
        if unknown := [name for name in self.arrangements if name not in ARRANGEMENTS]:
            yield f"{given}, with {', '.join(unknown)}; there are {', '.join(ARRANGEMENTS)}"
        if len(set(self.arrangements)) != len(self.arrangements):
            yield f"{given}; each may stand once"
        if max(self.future_tokens, default=1) == 1:
            yield f"{given}, but one head is the same model in all of them: give future_tokens an n above 1"
        if self.sizes:
            yield f"{given} beside sizes: a study is of one or of the other"
        elif (self.model.arrangement, self.model.extra_layers) != ("parallel", False):
            yield f"{given} beside model.arrangement or model.extra_layers, which it stands for: leave these out"

    def _faults_of_size(self, name: str) -> Iterator[str]:
        training = self.by_size()[name].training
        where = f"sizes.{name}." if name else ""
        if self.evaluation.context_length > training.context_length:
            yield (
                f"evaluation.context_length is {self.evaluation.context_length}, more than the model is trained on: "
                f"at most {where}training.context_length, {training.context_length}"
            )
        for size, arrangement, n in self.models():
            try:
                if size == name and arrangement in ("", *ARRANGEMENTS):
                    self.model_for(n, size, arrangement)
            except ValueError as error:
                at = f", at sizes.{name}" if name else f", as {arrangement}" if arrangement else ""
                yield from (f"future_tokens contains {n}{at}: {line}" for line in str(error).splitlines())
        yield from self._faults_of_workers(f"{where}training", training)

    def _faults_of_finetunes(self) -> Iterator[str]:
        for pretrained, target in self.finetunes:
            if pretrained not in self.future_tokens:
                yield (
                    f"finetunes starts from n = {pretrained}, which is not trained: future_tokens is "
                    f"{list(self.future_tokens)}; give finetunes=[[n,1]] with an n of these, or finetunes=[]"
                )
            if not 1 <= target <= pretrained:
                yield f"finetunes [{pretrained},{target}]: n' must be 1 to {pretrained}"
        if len(set(self.finetunes)) != len(self.finetunes):
            yield f"finetunes is {[list(pair) for pair in self.finetunes]}; each pair may stand once"
        if self.finetunes:
            yield from self._faults_of_workers("finetune", self.finetune)

    def _faults_of_workers(self, part: str, training: TrainingConfig) -> Iterator[str]:
        if self.cluster.training.workers > training.sequences_per_step:
            yield (
                f"cluster.training.workers is {self.cluster.training.workers}, but a step of {part} has "
                f"{training.sequences_per_step} sequence(s) (batch_tokens / context_length) and every worker "
                f"needs one: raise {part}.batch_tokens or take fewer workers"
            )

    def by_size(self) -> Mapping[str, Size]:
        """What is trained, by the size's name. An ordinary recipe has one size, and it needs no name."""
        return self.sizes or {"": Size(self.model, self.training)}

    def decoding_for(self, n: int) -> DecodingConfig:
        """The decoding benchmark of the model that predicts n tokens ahead: of the heads listed, those it has."""
        heads = self.decoding.heads
        return self.decoding if heads is None else replace(self.decoding, heads=tuple(k for k in heads if k <= n))

    def models(self) -> Iterator[tuple[str, str, int]]:
        """What is trained, as (size, arrangement, n); an ordinary recipe has no names for the first two, and n = 1 none
        for the second."""
        for size in self.by_size():
            for n in self.future_tokens:
                yield from ((size, arrangement, n) for arrangement in self.arrangements_of(n))

    def finetuned_models(self) -> Iterator[tuple[tuple[str, str, int], int]]:
        """What is fine-tuned, as a pretrained model's (size, arrangement, n) and the n' that it keeps."""
        for size, (n, target) in itertools.product(self.by_size(), self.finetunes):
            yield from (((size, arrangement, n), target) for arrangement in self.arrangements_of(n))

    def arrangements_of(self, n: int) -> tuple[str, ...]:
        """Names of the arrangements in which n heads are trained."""
        return self.arrangements if n > 1 and self.arrangements else ("",)

    def model_for(self, n: int, size: str = "", arrangement: str = "") -> ModelConfig:
        """The model of a size that predicts n tokens ahead. One head is the ordinary model in any arrangement, and is
        called `parallel`, so that it is trained once; of `replicated` alone it keeps its name."""
        base = self.by_size()[size].model
        heads = ARRANGEMENTS[arrangement] if arrangement else {}
        if n == 1 and base.arrangement != "replicated":
            heads = ARRANGEMENTS["parallel"]
        return replace(base, n_future_tokens=n, vocabulary_size=self.tokenizer.size, **heads)


@dataclass(frozen=True)
class Options:
    """How this invocation was asked to run."""

    workspace: str = "runs"
    """Where everything goes: store, reports, MLflow's database."""
    plan: Literal[True, False, "simulate"] = False
    """`true`: show what would run and why; run nothing. `simulate`: beside that, of every training's step, what each
    device holds at its peak and sends, from the code that trains on tensors without memory, for any number of workers
    (`cluster.training.workers=512`); some ten seconds a training."""
    only: tuple[str, ...] = ()
    """Stages or nodes to run; what they need must be there already."""
    until: str | None = None
    """Stage or node to run up to."""
    reuse: Literal["source", "config", "none"] = "source"
    """`source`: reuse what the same config and the same code made from the same inputs; `config`: even if the code
    changed since; `none`: make everything anew. A training that is half done goes on in the first two."""
    tracking_uri: str | None = None
    """MLflow server, such as http://127.0.0.1:5055; None: SQLite in the workspace."""

    def __post_init__(self) -> None:
        if not self.workspace.strip():
            raise ValueError("workspace is empty; give a folder, such as workspace=runs")


DERIVED = {
    "model.n_future_tokens": "future_tokens=[1,4] lists the n to compare",
    "model.vocabulary_size": "tokenizer.vocabulary_size sets it",
    "training.seed": "seed=… sets it",
    "finetune.seed": "seed=… sets it",
    "finetune.n_future_tokens": "finetunes=[[4,1]] lists (n pretrained, n' fine-tuned)",
}
"""Fields that a recipe derives; they cannot be given, and the message says what to give instead."""

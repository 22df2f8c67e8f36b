"""Stages and nodes: how a pipeline is declared. Building a graph is pure and imports neither Ray nor torch.

    @stage(version=1)
    def train_tokenizer(config: TokenizerConfig, corpus: Corpus, run: StageRun) -> Tokenizer: ...

    tokenizer = train_tokenizer.bind(recipe.tokenizer, corpus)      # Node[Tokenizer]: nothing runs yet

A stage is a function of a frozen config dataclass (everything that changes the result and nothing else), the
artifacts of its inputs, and its StageRun. Called directly it just runs.
"""

import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar, cast, overload

from components.flow.cost import Cost, Outlook

if typing.TYPE_CHECKING:
    from components.flow.stage_run import StageRun

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
C = TypeVar("C")
C_contra = TypeVar("C_contra", contravariant=True)
I1 = TypeVar("I1", contravariant=True)
I2 = TypeVar("I2", contravariant=True)
I3 = TypeVar("I3", contravariant=True)
I4 = TypeVar("I4", contravariant=True)


@dataclass(frozen=True)
class Resources:
    """What a node occupies while it runs; admission counts it against the cluster."""

    cpus: float | None = None
    """CPU cores; None: every core of the machine or cluster."""
    share: float = 1.0
    """With `cpus` None: the part of the cores that it takes, so that its like can run beside it."""
    at_least_cpus: float = 0
    """With `cpus` None: how many there must be."""
    gpus: float = 0
    drives_ray: bool = False
    """The stage drives Ray Data or Ray Train: its own task holds nothing and its workers hold the above."""
    alone: bool = False
    """Nothing else may run beside it: it measures time."""


@dataclass(frozen=True)
class Node(Generic[T_co]):
    """A stage bound to its config and inputs."""

    stage: "Stage[Any]"
    config: Any
    inputs: "tuple[Node[Any] | Several[Any], ...]"
    name: str
    """Unique within a graph; the link in `runs/latest/` and the name in the plan."""
    title: str
    """For people, the telling part first: `n=4 pretrain`."""
    resources: Resources
    execution: Any = None
    """How to run it (workers, micro-batch): passed to the stage, never part of the identity."""
    group: str | None = None
    """What it belongs to, such as one of the models compared: a plan adds up costs by it."""

    def flat_inputs(self) -> "tuple[Node[Any], ...]":
        """All input nodes, groups opened."""
        nodes: list[Node[Any]] = []
        for item in self.inputs:
            nodes.extend(item.nodes if isinstance(item, Several) else (item,))
        return tuple(nodes)


@dataclass(frozen=True)
class Several(Generic[T_co]):
    """A group of nodes as one input: the stage receives a tuple of their artifacts."""

    nodes: tuple[Node[T_co], ...]


def several(nodes: Sequence[Node[T]]) -> Node[tuple[T, ...]]:
    """Group nodes into one input. (Typed as the node of a tuple, which is what the stage sees.)"""
    return cast("Node[tuple[T, ...]]", Several(tuple(nodes)))


@dataclass(frozen=True)
class Stage(Generic[T_co]):
    """A stage function with what the engine must know of it."""

    function: Callable[..., T_co]
    name: str
    version: int
    resources: Resources
    resumable: bool
    """It can go on from partial work that it keeps in `run.work`."""
    measures_time: bool
    """Its result depends on the machine, so its identity includes it."""
    external: Callable[[Any], Any] | None
    """Given the config, what the stage reads from outside (paths with sizes and times): part of the identity."""
    problems: Callable[[Any, Any], list[str]] | None
    """Given config and execution, what a plan may leave open but a run needs; a sentence each, with the mend."""
    publish: bool
    """Its files are worth a person's look: logged as artifacts of the whole run."""
    cost: Callable[[Outlook], Cost] | None
    """What it is expected to use."""
    changes: Callable[[Any], Iterator[tuple[str, Any]]] | None
    """Given the execution, other ways to run that need less memory: (what to override, execution), smallest first."""
    own_process: bool
    """It runs in a process of its own, since it leaves threads or memory behind."""

    def __call__(self, *args: Any) -> T_co:
        return self.function(*args)

    def bind(
        self,
        config: Any,
        *inputs: Any,
        name: str | None = None,
        title: str | None = None,
        resources: Resources | None = None,
        execution: Any = None,
        group: str | None = None,
    ) -> Node[T_co]:
        name = name or self.name
        own = resources or self.resources
        if self.measures_time:
            own = replace(own, alone=True)
        return Node(self, config, inputs, name, title or name, own, execution, group)

    @property
    def artifact_type(self) -> Any:
        """The dataclass that the stage returns, from its annotation."""
        return typing.get_type_hints(self.function)["return"]


class _Stage0(Protocol[C_contra, T_co]):
    def __call__(self, config: C_contra, run: "StageRun", /) -> T_co: ...
    def bind(
        self,
        config: C_contra,
        *,
        name: str | None = None,
        title: str | None = None,
        resources: Resources | None = None,
        execution: Any = None,
        group: str | None = None,
    ) -> Node[T_co]: ...


class _Stage1(Protocol[C_contra, I1, T_co]):
    def __call__(self, config: C_contra, i1: I1, run: "StageRun", /) -> T_co: ...
    def bind(
        self,
        config: C_contra,
        i1: Node[I1],
        *,
        name: str | None = None,
        title: str | None = None,
        resources: Resources | None = None,
        execution: Any = None,
        group: str | None = None,
    ) -> Node[T_co]: ...


class _Stage2(Protocol[C_contra, I1, I2, T_co]):
    def __call__(self, config: C_contra, i1: I1, i2: I2, run: "StageRun", /) -> T_co: ...
    def bind(
        self,
        config: C_contra,
        i1: Node[I1],
        i2: Node[I2],
        *,
        name: str | None = None,
        title: str | None = None,
        resources: Resources | None = None,
        execution: Any = None,
        group: str | None = None,
    ) -> Node[T_co]: ...


class _Stage3(Protocol[C_contra, I1, I2, I3, T_co]):
    def __call__(self, config: C_contra, i1: I1, i2: I2, i3: I3, run: "StageRun", /) -> T_co: ...
    def bind(
        self,
        config: C_contra,
        i1: Node[I1],
        i2: Node[I2],
        i3: Node[I3],
        *,
        name: str | None = None,
        title: str | None = None,
        resources: Resources | None = None,
        execution: Any = None,
        group: str | None = None,
    ) -> Node[T_co]: ...


class _Stage4(Protocol[C_contra, I1, I2, I3, I4, T_co]):
    def __call__(self, config: C_contra, i1: I1, i2: I2, i3: I3, i4: I4, run: "StageRun", /) -> T_co: ...
    def bind(
        self,
        config: C_contra,
        i1: Node[I1],
        i2: Node[I2],
        i3: Node[I3],
        i4: Node[I4],
        *,
        name: str | None = None,
        title: str | None = None,
        resources: Resources | None = None,
        execution: Any = None,
        group: str | None = None,
    ) -> Node[T_co]: ...


class _Decorator(Protocol):
    @overload
    def __call__(self, function: "Callable[[C, StageRun], T]") -> _Stage0[C, T]: ...
    @overload
    def __call__(self, function: "Callable[[C, I1, StageRun], T]") -> _Stage1[C, I1, T]: ...
    @overload
    def __call__(self, function: "Callable[[C, I1, I2, StageRun], T]") -> _Stage2[C, I1, I2, T]: ...
    @overload
    def __call__(self, function: "Callable[[C, I1, I2, I3, StageRun], T]") -> _Stage3[C, I1, I2, I3, T]: ...
    @overload
    def __call__(self, function: "Callable[[C, I1, I2, I3, I4, StageRun], T]") -> _Stage4[C, I1, I2, I3, I4, T]: ...


def stage(
    *,
    version: int,
    name: str | None = None,
    resources: Resources | None = None,
    resumable: bool = False,
    measures_time: bool = False,
    external: Callable[[Any], Any] | None = None,
    problems: Callable[[Any, Any], list[str]] | None = None,
    publish: bool = False,
    cost: Callable[[Outlook], Cost] | None = None,
    changes: Callable[[Any], Iterator[tuple[str, Any]]] | None = None,
    own_process: bool = False,
) -> _Decorator:
    """Turn a function `(config, *artifacts, run) -> artifact` into a stage.

    Raise `version` when the same config must give a different result from now on. `external` returns, as JSON
    values, the identity of what the stage reads from outside the store; `problems` names what must be mended
    before a run (a plan goes without); `publish` logs the result's files on the run as a whole; `cost` and `changes`
    price it in a plan; `own_process` keeps its threads and memory from the stages after it.
    """

    def wrap(function: Callable[..., Any]) -> Any:
        return Stage(
            function,
            name or function.__name__,
            version,
            resources or Resources(),
            resumable,
            measures_time,
            external,
            problems,
            publish,
            cost,
            changes,
            own_process,
        )

    return cast(_Decorator, wrap)


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which each follows its inputs."""

    nodes: tuple[Node[Any], ...] = field(default=())

    @staticmethod
    def of(*goals: Node[Any]) -> "Graph":
        """The goals and all they need. ValueError when two different nodes carry one name."""
        ordered: dict[str, Node[Any]] = {}

        def visit(node: Node[Any]) -> None:
            known = ordered.get(node.name)
            if known is not None:
                if known is not node:
                    raise ValueError(f"two nodes are called {node.name!r}; give one of them another name")
                return
            for upstream in node.flat_inputs():
                visit(upstream)
            ordered[node.name] = node

        for goal in goals:
            visit(goal)
        return Graph(tuple(ordered.values()))

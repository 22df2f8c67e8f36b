"""Graphs read back from their tokens, and what players that see an edge at a time get right."""

import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from plain_examples import p_value, written

from components.synthetic.config import PathStarConfig
from components.synthetic.path_star import PathStar

SHAPES = [(2, 4, 30), (3, 2, 7), (5, 5, 60), (2, 2, 5)]
"""Arms, edges, nodes."""


@dataclass(frozen=True)
class Graph:
    """An example as a dict knows it."""

    edges: list[tuple[int, int]]
    start: int
    goal: int
    path: list[int]

    @property
    def before(self) -> dict[int, int]:
        """Where the one edge to a node comes from."""
        return {to: origin for origin, to in self.edges}

    @property
    def after(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = defaultdict(list)
        for origin, to in self.edges:
            found[origin].append(to)
        return found

    @property
    def path_edges(self) -> list[tuple[int, int]]:
        return list(pairwise([self.start, *self.path]))

    @property
    def question(self) -> tuple[frozenset[tuple[int, int]], int, int]:
        """Whatever the order of the edges."""
        return frozenset(self.edges), self.start, self.goal


def graph_of(tokens: list[int], config: PathStarConfig) -> Graph:
    mark, question, equals = config.nodes, config.nodes + 1, config.nodes + 2
    asked = tokens.index(question)
    assert asked == 3 * config.arms * config.edges
    edges = [tokens[place : place + 3] for place in range(0, asked, 3)]
    assert {edge[2] for edge in edges} == {mark}
    start, goal, sign, *path = tokens[asked + 1 :]
    assert sign == equals
    return Graph([(a, b) for a, b, _ in edges], start, goal, path)


def graphs_of(config: PathStarConfig, count: int, seed: int = 1, step: int = 0) -> list[Graph]:
    """Graphs of a training step."""
    some = written(PathStar(config).examples(seed, step, count * config.longest))[:count]
    return [graph_of(tokens, config) for tokens in some]


def of_the_test(config: PathStarConfig, items: int) -> list[Graph]:
    return [graph_of(tokens, config) for tokens in written(PathStar(config).test(items)[0].examples)]


@pytest.mark.parametrize(("arms", "edges", "nodes"), SHAPES)
def test_the_graph_is_a_star_of_paths_and_the_answer_leads_from_start_to_goal(
    arms: int, edges: int, nodes: int
) -> None:
    config = PathStarConfig(arms, edges, nodes)
    for graph in graphs_of(config, 500) + of_the_test(config, 100):
        assert len(set(graph.edges)) == len(graph.before) == arms * edges, "no node is reached twice"
        assert all(0 <= node < nodes for edge in graph.edges for node in edge)
        assert len(graph.after[graph.start]) == arms
        assert graph.start not in graph.before
        ends = set(graph.before) - set(graph.after)
        assert len(ends) == arms
        assert graph.goal in ends
        for end in ends:
            back = [end]
            while back[-1] in graph.before:
                back.append(graph.before[back[-1]])
            assert len(back) == edges + 1
            assert back[-1] == graph.start
            if end == graph.goal:
                assert graph.path == back[-2::-1]


@pytest.mark.parametrize(("arms", "edges", "nodes"), SHAPES[:3])
def test_start_goal_and_first_node_are_uniform_over_the_names(arms: int, edges: int, nodes: int) -> None:
    graphs = graphs_of(PathStarConfig(arms, edges, nodes), 6000)
    for drawn in ([g.start for g in graphs], [g.goal for g in graphs], [g.path[0] for g in graphs]):
        counts = Counter(drawn)
        assert p_value([counts[name] for name in range(nodes)], [1] * nodes) > 0.001


@pytest.mark.parametrize(("arms", "edges", "nodes"), SHAPES[:3])
def test_the_order_of_the_edges_says_nothing_of_the_path(arms: int, edges: int, nodes: int) -> None:
    graphs = graphs_of(PathStarConfig(arms, edges, nodes), 6000)
    among_firsts = Counter(graph.after[graph.start].index(graph.path[0]) for graph in graphs)
    assert p_value([among_firsts[place] for place in range(arms)], [1] * arms) > 0.001
    for step in range(edges):
        among_all = Counter(graph.edges.index(graph.path_edges[step]) for graph in graphs)
        assert p_value([among_all[place] for place in range(arms * edges)], [1] * (arms * edges)) > 0.001


@pytest.mark.parametrize(("arms", "edges", "nodes"), SHAPES[:3])
def test_who_follows_edges_and_guesses_the_first_is_right_on_all_but_the_first(
    arms: int, edges: int, nodes: int
) -> None:
    config, items = PathStarConfig(arms, edges, nodes), 1500
    guesses = np.random.default_rng(5)
    right: dict[str, list[bool]] = {}
    for part in PathStar(config).test(items):
        right[part.name] = []
        for tokens, counted in zip(written(part.examples), part.examples.counted_EL, strict=True):
            graph = graph_of(tokens, config)
            every = []
            for place in counted.nonzero()[0]:
                at = place - (len(tokens) - edges)
                assert at >= 0, "the path alone counts"
                here = graph.path[at - 1] if at else graph.start
                every.append(guesses.choice(graph.after[here]) == tokens[place])
            right[part.name] += [all(every)] if part.whole else every
    shares = {name: sum(of) / len(of) for name, of in right.items()}
    within = 4 * math.sqrt((1 - 1 / arms) / arms / items)
    assert {name: len(of) for name, of in right.items()} == {
        "accuracy": items, "first_node": items, "later_nodes": (edges - 1) * items
    }  # fmt: skip
    assert shares["later_nodes"] == 1
    assert shares["first_node"] == pytest.approx(1 / arms, abs=within)
    assert shares["accuracy"] == pytest.approx(1 / arms, abs=within)


@pytest.mark.parametrize("answer_only", [False, True])
def test_in_training_all_tokens_count_or_the_path_alone(answer_only: bool) -> None:
    config = PathStarConfig(3, 4, answer_only=answer_only)
    examples = PathStar(config).examples(1, 0, 3000)
    for tokens, counted in zip(written(examples), examples.counted_EL, strict=True):
        path = range(tokens.index(config.nodes + 2) + 1, len(tokens))
        assert counted.nonzero()[0].tolist() == list(path if answer_only else range(len(tokens)))


def test_each_question_of_the_smallest_graphs_is_in_the_test_or_in_training_and_none_is_missing() -> None:
    """Two arms of two edges on five nodes: 5! / 2 graphs, two goals each; edges come in any order."""
    config = PathStarConfig(2, 2, 5)
    trained = Counter(g.question for seed in (1, 2) for step in range(3) for g in graphs_of(config, 2000, seed, step))
    test = Counter(graph.question for graph in of_the_test(config, 3000))
    assert not set(trained) & set(test)
    assert len(trained) + len(test) == math.factorial(5)
    orders = {tuple(graph.edges) for graph in of_the_test(config, 3000)}
    assert len(orders) > 10 * len(test), "of 24 orders"


def test_no_graph_and_goal_of_the_test_is_in_training_in_any_order_of_the_edges() -> None:
    config = PathStarConfig(2, 2, 7)
    test = {graph.question for graph in of_the_test(config, 2000)}
    trained = {graph.question for step in range(10) for graph in graphs_of(config, 3000, step=step)}
    assert not test & trained
    assert len(trained) > 2000, "of 7! / 2 = 2,520 questions, a tenth of them the test's"


def test_the_test_is_the_same_at_every_call_and_its_parts_are_of_the_same_graphs() -> None:
    config = PathStarConfig(3, 3)
    first, second = ([written(part.examples) for part in PathStar(config).test(40)] for _ in range(2))
    assert first == second
    assert first[0] == first[1] == first[2]


def test_what_a_person_is_shown_are_graphs_and_paths() -> None:
    config = PathStarConfig(3, 2, 9)
    signs = {"|": 9, "?": 10, "=": 11}
    lines = PathStar(config).shown().splitlines()
    assert len(lines) == 4
    for line in lines:
        graph = graph_of([signs[word] if word in signs else int(word) for word in line.split()], config)
        assert [graph.before[node] for node in graph.path] == [graph.start, *graph.path[:-1]]
        assert graph.path[-1] == graph.goal

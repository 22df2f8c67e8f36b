"""Paths in stars of paths, whose first step needs looking ahead (Bachmann & Nagarajan 2024, section 4.1).

Shape suffixes: E examples, A arms, P edges of an arm, L tokens.
"""

import numpy as np

from components.synthetic.config import PathStarConfig
from components.synthetic.examples import TEST, TRAIN, Array, Examples, Scored, different, randomness, scattered

TEST_SHARE = 10
"""One graph in so many, by its hash, belongs to the test and never to training."""


class PathStar:
    """The task."""

    def __init__(self, config: PathStarConfig) -> None:
        self.config = config

    @property
    def longest(self) -> int:
        return self.config.longest

    def examples(self, seed: int, step: int, tokens: int) -> Examples:
        return self._drawn(randomness(seed, TRAIN, step), -(-tokens // self.longest) + 1)

    def test(self, items: int) -> list[Scored]:
        """The whole path, as greedy decoding gives it; its first node, which takes looking ahead; the others, which
        follow from the node before."""
        random, draws = randomness(0, TEST), TEST_SHARE * max(16, items)
        graphs = different(lambda: self._examples(self._graphs(random, draws, of_test=True)), items)
        if not len(graphs):
            raise ValueError(f"nodes is {self.config.nodes}: too few graphs to keep some for a test; give more")
        first_EL, path_EL = np.zeros_like(graphs.counted_EL), np.zeros_like(graphs.counted_EL)
        path_EL[:, -self.config.edges :] = True
        first_EL[:, -self.config.edges] = True
        return [
            Scored(name, Examples(graphs.tokens_EL, graphs.length_E, counted_EL), whole)
            for name, counted_EL, whole in (
                ("accuracy", path_EL, True),
                ("first_node", first_EL, False),
                ("later_nodes", path_EL & ~first_EL, False),
            )
        ]

    def text(self, tokens: Array) -> str:
        """Tokens as a person reads them."""
        return " ".join(str(t) if t < self.config.nodes else "|?="[t - self.config.nodes] for t in tokens.tolist())

    def shown(self) -> str:
        few = self._drawn(randomness(1, TRAIN), 4)
        return "\n".join(map(self.text, few.tokens_EL))

    def _drawn(self, random: np.random.Generator, count: int) -> Examples:
        """So many of training."""
        found: list[Array] = []
        while sum(map(len, found)) < count:
            found.append(self._graphs(random, max(16, 2 * count), of_test=False))
        return self._examples(np.concatenate(found)[:count])

    def _examples(self, tokens_EL: Array) -> Examples:
        counted_EL = np.ones(tokens_EL.shape, bool)
        if self.config.answer_only:
            counted_EL[:, : -self.config.edges] = False
        return Examples(tokens_EL, np.full(len(tokens_EL), self.longest), counted_EL)

    def _graphs(self, random: np.random.Generator, count: int, of_test: bool) -> Array:
        """Of so many drawn graphs those that belong to the test, or to training."""
        tokens_EL = self._any_graphs(random, count)
        wanted_EL: Array = tokens_EL[(self._hash(tokens_EL) % np.uint64(TEST_SHARE) == 0) == of_test]
        return wanted_EL

    def _any_graphs(self, random: np.random.Generator, count: int) -> Array:
        config = self.config
        E, A, P = count, config.arms, config.edges
        node_EN = random.permuted(np.broadcast_to(np.arange(config.nodes), (E, config.nodes)), axis=1)
        start_E = node_EN[:, 0]
        arm_EAP = node_EN[:, 1 : 1 + A * P].reshape(E, A, P)
        from_EAP = np.concatenate((np.broadcast_to(start_E[:, None, None], (E, A, 1)), arm_EAP[..., :-1]), -1)
        mark, question, equals = (config.nodes + i for i in range(3))
        edge_EL3 = np.stack((from_EAP, arm_EAP, np.full_like(arm_EAP, mark)), -1).reshape(E, A * P, 3)
        order = random.permuted(np.broadcast_to(np.arange(A * P), (E, A * P)), axis=1)
        edge_EL3 = np.take_along_axis(edge_EL3, order[..., None], 1)
        path_EP = arm_EAP[np.arange(E), random.integers(0, A, E)]  # its last is the goal
        asked = np.stack((np.full(E, question), start_E, path_EP[:, -1], np.full(E, equals)), 1)
        return np.concatenate((edge_EL3.reshape(E, -1), asked, path_EP), 1)

    def _hash(self, tokens_EL: Array) -> Array:
        """Of the graph, whatever the order of its edges and whichever path is asked for: a sum over edges."""
        edges = 3 * self.config.arms * self.config.edges
        n = np.uint64(self.config.nodes)
        edge_EL3 = tokens_EL[:, :edges].reshape(len(tokens_EL), -1, 3).astype(np.uint64)
        hash_E: Array = scattered(edge_EL3[..., 0] * n + edge_EL3[..., 1]).sum(1)
        return hash_E >> np.uint64(20)

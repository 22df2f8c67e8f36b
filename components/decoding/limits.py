"""The least time a step can take on this machine, from what it was measured to do in the same run.

    limit = sum over weight matrices of max(bytes / read bandwidth, FLOPs / matmul rate) + cache bytes / read bandwidth

FLOPs are 2 x weights x rows. The work is that of the cheapest way known, not of ours: drafting heads run at the last
row of each sequence (keys and values apart), and the unembedding is read a second time for their rows, or heads run at
all rows and it is read once; whichever is less.
"""

from dataclasses import dataclass

from components.model.config import ModelConfig


@dataclass(frozen=True)
class Roofs:
    """What the machine does at best, as measured."""

    read_bytes_per_second: float
    """A plain sum over 500 MB."""
    flops_per_second: float
    """A product of two 2048 x 2048 matrices in the dtype of the weights."""


@dataclass(frozen=True)
class Product:
    """A weight matrix read once, and the rows it meets."""

    name: str
    weights: int
    rows: int

    def seconds(self, roofs: Roofs, bytes_per_weight: int) -> float:
        read = self.weights * bytes_per_weight / roofs.read_bytes_per_second
        return max(read, 2 * self.weights * self.rows / roofs.flops_per_second)


def step_products(config: ModelConfig, k: int, batch: int, at_once: bool = False) -> list[Product]:
    """The matrices of a step, layers of one kind together. at_once: drafting heads at all rows, one reading of the
    unembedding."""
    fed, table = batch * k, config.vocabulary_size * config.dim
    on_the_way = config.head_layers_run(1)
    way = Product("layers", (config.n_trunk_layers + on_the_way) * config.layer_matrix_parameters(), fed)
    if k == 1:
        return [way, Product("unembedding", table, fed)]
    if config.arrangement == "replicated":
        own = Product("draft unembeddings", (k - 1) * table, batch)
        return [way, Product("unembedding", table, fed), own]
    asked = fed if at_once else batch
    layers = config.head_layers_run(k) - on_the_way
    keys_values = 2 * config.kv_heads * config.head_dim * config.dim
    if config.arrangement == "causal":  # each reads the one below at all rows
        drafting = [Product("draft heads", layers * config.layer_matrix_parameters(), fed)]
    else:
        rest = config.layer_matrix_parameters() - keys_values
        matrices = min(k - 1, config.n_head_matrices) * config.dim**2
        drafting = [
            Product("draft keys and values", layers * keys_values, fed),
            Product("draft heads", layers * rest + matrices, asked),
        ]
    drafting = [product for product in drafting if product.weights]
    if at_once:
        return [way, *drafting, Product("unembedding", table, fed * k)]
    return [way, *drafting, Product("unembedding", table, fed), Product("unembedding again", table, batch * (k - 1))]


def cache_bytes(config: ModelConfig, k: int, batch: int, context: int, bytes_per_value: int) -> int:
    """Keys and values that a step reads."""
    return batch * context * config.kv_bytes_per_token(bytes_per_value, k)


def step_limit(config: ModelConfig, k: int, batch: int, context: int, roofs: Roofs, bytes_per_weight: int) -> float:
    """Seconds of a step at the least."""
    ways = [step_products(config, k, batch), step_products(config, k, batch, at_once=True)]
    products = min(sum(product.seconds(roofs, bytes_per_weight) for product in way) for way in ways)
    return products + cache_bytes(config, k, batch, context, bytes_per_weight) / roofs.read_bytes_per_second

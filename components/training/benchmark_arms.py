"""What the benchmark of training sets side by side: a step of ours, of a loss over all heads at once, of transformers'
Llama. Each is a function that takes a whole training step: forward, backward, clipping and AdamW.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from components.model.config import ModelConfig
from components.training.config import TrainingConfig, TrainingExecution
from components.training.loop import TrainState, train_step
from components.training.loss import window_targets
from components.training.worker import make_state

Step = Callable[[], None]


@dataclass(frozen=True)
class Size:
    """A model with one head, and the batch that a step takes through it at once."""

    model: ModelConfig
    context: int
    sequences: int
    rounds: int
    """Turns of all arms."""
    together: bool = True
    """Whether all arms fit into memory at a time."""

    @property
    def tokens(self) -> int:
        return self.context * self.sequences


def _llama(layers: int, dim: int, heads: int, vocabulary: int) -> ModelConfig:
    return ModelConfig(dim=dim, layers=layers, n_attention_heads=heads, vocabulary_size=vocabulary)


SIZES: Mapping[str, Size] = {
    "5m": Size(_llama(6, 256, 4, 4096), 512, 16, 9),
    "30m": Size(_llama(10, 512, 8, 8192), 256, 8, 7),
    "100m": Size(_llama(12, 768, 12, 32000), 256, 18, 4),
    "0.3b": Size(_llama(18, 1024, 16, 32000), 4096, 4, 15),
    "1.3b": Size(_llama(24, 2048, 16, 32000), 4096, 2, 9, together=False),
}
"""The last two are the paper's (Table S14), for a GPU."""
HEADS = (1, 2, 4)


def config_of(size: Size) -> TrainingConfig:
    """A step takes the whole batch in bfloat16."""
    return TrainingConfig(batch_tokens=size.tokens, context_length=size.context, precision="bfloat16")


def state_of(size: Size, n: int, compiled: bool, device: torch.device) -> TrainState:
    """Random weights, `n` heads at equal parameters."""
    model = replace(size.model, n_future_tokens=n)
    on_gpu = int(device.type == "cuda")
    execution = TrainingExecution(micro_batch_sequences=size.sequences, compile=compiled, gpus_per_worker=on_gpu)
    state = make_state(model, config_of(size), execution, device)
    with torch.no_grad():
        for parameter in state.model.parameters():
            if parameter.dim() < 2:
                parameter.fill_(1.0)
            else:
                parameter.normal_(0, 0.02)
    return state


def _batch(size: Size, n: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (size.sequences, size.context + n)
    windows = torch.randint(0, size.model.vocabulary_size, shape, generator=torch.Generator().manual_seed(1))
    return window_targets(windows.to(device), n)


def our_arm(size: Size, n: int, compiled: bool, device: torch.device) -> tuple[TrainState, Step]:
    """A step of ours with `n` heads."""
    state, batch, config = state_of(size, n, compiled, device), _batch(size, n, device), config_of(size)
    return state, lambda: discard(train_step(state, batch, config, size.sequences))


def our_step(size: Size, n: int, compiled: bool, device: torch.device) -> Step:
    """`our_arm` where nobody looks at its state."""
    return our_arm(size, n, compiled, device)[1]


def naive_arm(size: Size, n: int, compiled: bool, device: torch.device) -> tuple[TrainState, Step]:
    """The same model and optimizer, but the losses of all heads are there before one backward pass over their sum."""
    state, (tokens, targets), config = state_of(size, n, compiled, device), _batch(size, n, device), config_of(size)
    model = state.model
    state.placement.tables.unembeddings.clear()  # copies that this loss does not read

    def step() -> None:
        state.placement.begin_step(n)
        with torch.autocast(device.type, torch.bfloat16):
            rotary = model.rotary(size.context, device)
            states = model.forward_heads(model.forward_trunk(model.embedding(tokens), rotary), rotary, n)
            losses = [
                F.cross_entropy(model.head_unembedding(i)(h_BTD).flatten(0, 1).float(), target.flatten())
                for i, (h_BTD, target) in enumerate(zip(states, targets, strict=True))
            ]
        torch.autograd.backward(torch.stack(losses).sum())
        state.placement.finish()
        state.placement.clip(config.clip_norm).item()
        state.optimizer.step(config.learning_rate)

    return state, step


def transformers_arm(size: Size, attention: str, compiled: bool, device: torch.device) -> Step:
    """transformers' LlamaForCausalLM of the same shape, fused AdamW."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = size.model
    config = LlamaConfig(
        hidden_size=shape.dim,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.n_attention_heads,
        intermediate_size=shape.ffn_width,
        vocab_size=shape.vocabulary_size,
        max_position_embeddings=size.context,
        tie_word_embeddings=False,
    )
    config._attn_implementation = attention
    with device:
        model = LlamaForCausalLM(config)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)
    tokens, _ = _batch(size, 1, device)
    forward = torch.compile(model, dynamic=False) if compiled else model

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = forward(input_ids=tokens, labels=tokens, use_cache=False).loss
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True).item()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def discard(_: object) -> None:
    """Makes a Step of what returns something."""

"""What a compiler makes of the loss and the layers is what they are without one."""

import shutil
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from components.model.config import ModelConfig
from components.training.config import TrainingConfig, TrainingExecution
from components.training.loop import gradient_of_batch
from components.training.loss import IGNORE, compiled_cross_entropy_gradient, cross_entropy_gradient, window_targets
from components.training.worker import make_state

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # torch's own
needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")), reason="needs a C++ compiler"
)


def logits_and_targets() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits_CV = torch.randn(40, 700, generator=generator) * 3
    targets_C = torch.randint(0, 700, (40,), generator=generator)
    targets_C[3] = IGNORE
    targets_C[5] = logits_CV[5].argmax()
    logits_CV[7, targets_C[7]] = 40.0  # softmax minus one would be lost in rounding
    logits_CV[9] -= 90.0
    return logits_CV, targets_C


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("function", ["eager", pytest.param("compiled", marks=needs_compiler)])
def test_the_gradient_of_the_logits_is_autograd_s_in_float64(function: str, dtype: torch.dtype) -> None:
    logits_CV, targets_C = logits_and_targets()
    rounded = logits_CV.to(dtype)
    exact = rounded.double().requires_grad_()
    loss = F.cross_entropy(exact, targets_C, reduction="sum", ignore_index=IGNORE)
    (0.1 * loss).backward()
    made = compiled_cross_entropy_gradient() if function == "compiled" else cross_entropy_gradient
    gradient_CV, sums = made(rounded, targets_C, torch.tensor(0.1, dtype=torch.float64))
    tolerance = 1e-6 if dtype == torch.float32 else 5e-3
    torch.testing.assert_close(gradient_CV.double(), exact.grad, rtol=tolerance, atol=1e-9)
    assert sums[0].item() == pytest.approx(loss.item(), rel=1e-6)
    assert sums.tolist()[1:] == [2.0, 39.0]


@needs_compiler
def test_compiled_layers_give_the_same_gradient() -> None:
    model = ModelConfig(dim=32, layers=4, n_attention_heads=4, vocabulary_size=60, n_future_tokens=2)
    config = TrainingConfig(batch_tokens=64, context_length=16)
    batch = window_targets(torch.randint(0, 60, (4, 18), generator=torch.Generator().manual_seed(0)), 2)
    eager, compiled = (
        make_state(model, config, replace(TrainingExecution(), compile=on), torch.device("cpu")) for on in (False, True)
    )
    for state in (eager, compiled):
        state.model.init_weights(1)
        gradient_of_batch(state, batch, config, 2)
    for (name, a), b in zip(eager.model.named_parameters(), compiled.model.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-7, msg=name)

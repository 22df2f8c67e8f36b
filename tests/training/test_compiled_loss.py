"""What a compiler makes of the loss and the layers is what they are without one."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from compiler import HAS_COMPILER

from components.model.config import ModelConfig
from components.training.config import Precision, TrainingConfig, TrainingExecution
from components.training.cross_entropy import IGNORE, cross_entropy_gradient
from components.training.loop import Batch, gradient_of_batch
from components.training.loss import window_targets
from components.training.worker import make_state

pytestmark = [  # torch's own
    pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="needs a C++ compiler")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def logits_and_targets(vocabulary: int = 700) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits_CV = torch.randn(40, vocabulary, generator=generator) * 3
    targets_C = torch.randint(0, vocabulary, (40,), generator=generator)
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
    exact = rounded.double().requires_grad_()  # a copy: the gradient may take the memory of the logits
    loss = F.cross_entropy(exact, targets_C, reduction="sum", ignore_index=IGNORE)
    (0.1 * loss).backward()
    scale = torch.tensor(0.1, dtype=torch.float64)
    gradient_CV, sums = cross_entropy_gradient(rounded, targets_C, scale, function == "compiled")
    tolerance = 1e-6 if dtype == torch.float32 else 5e-3
    torch.testing.assert_close(gradient_CV.double(), exact.grad, rtol=tolerance, atol=1e-9)
    assert sums[0].item() == pytest.approx(loss.item(), rel=1e-6)
    assert sums.tolist()[1:] == [2.0, 39.0]


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocabulary", [700, 4096, 9001, 32000, 130001])
def test_the_kernel_of_a_gpu_gives_autograd_s_gradient_in_float64(vocabulary: int, dtype: torch.dtype) -> None:
    """In blocks of 4,096 symbols: the best one, the target and the end of the vocabulary in any of them."""
    logits_CV, targets_C = logits_and_targets(vocabulary)
    logits_CV[11, -1], targets_C[11] = 50.0, 0
    logits_CV[12, 0], targets_C[12] = 50.0, vocabulary - 1
    logits_CV[13] = logits_CV[13].sort().values  # a new best one in every block
    targets_C[-1] = IGNORE
    exact = logits_CV.to(dtype).double().requires_grad_()
    loss = F.cross_entropy(exact, targets_C, reduction="sum", ignore_index=IGNORE)
    (0.1 * loss).backward()
    scales = torch.tensor([7.0, 0.1], dtype=torch.float64, device="cuda")
    logits = logits_CV.to("cuda", dtype)
    gradient, sums = cross_entropy_gradient(logits, targets_C.cuda(), scales[1])
    assert gradient.data_ptr() == logits.data_ptr()
    tolerance = 2e-6 if dtype == torch.float32 else 5e-3
    torch.testing.assert_close(gradient.cpu().double(), exact.grad, rtol=tolerance, atol=1e-9)
    at_target_C = exact.gather(1, targets_C.clamp(min=0)[:, None])[:, 0]
    correct = ((at_target_C == exact.amax(-1)) & (targets_C != IGNORE)).sum()
    assert sums[0].item() == pytest.approx(loss.item(), rel=1e-6)
    assert sums.tolist()[1:] == [correct.item(), 38.0]
    for spoiled in (torch.nan, torch.inf):
        broken = logits_CV.to("cuda", dtype)
        broken[20, vocabulary // 2] = spoiled
        assert not cross_entropy_gradient(broken, targets_C.cuda(), scales[1])[1][0].isfinite()


@needs_compiler
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_compiled_layers_give_the_same_gradient(precision: Precision) -> None:
    """In bfloat16 as near to float32's as uncompiled ones are, attention in blocks included."""
    model = ModelConfig(dim=32, layers=4, n_attention_heads=4, vocabulary_size=60, n_future_tokens=2)
    exact = TrainingConfig(batch_tokens=64, context_length=16, clip_norm=1e9)
    batch = window_targets(torch.randint(0, 60, (4, 18), generator=torch.Generator().manual_seed(0)), 2)
    reference, eager, compiled = (
        gradient(model, config, TrainingExecution(compile=on), batch)
        for config, on in (
            (exact, False),
            (replace(exact, precision=precision), False),
            (replace(exact, precision=precision), True),
        )
    )
    for name, expected in reference.items():
        error, of_eager = ((found[name] - expected).norm() / expected.norm() for found in (compiled, eager))
        assert error < 1e-5 + 1.3 * of_eager, name
        assert of_eager < (2e-2 if precision == "bfloat16" else 1e-9)


def gradient(
    model: ModelConfig, config: TrainingConfig, execution: TrainingExecution, batch: Batch
) -> dict[str, torch.Tensor]:
    state = make_state(model, config, execution, torch.device("cpu"))
    state.model.init_weights(1)
    gradient_of_batch(state, batch, config, 2)
    return {name: p.grad for name, p in state.model.named_parameters() if p.grad is not None}

"""What the decoding benchmark measures. Needs the standard library alone."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class DecodingConfig:
    """Next-token against self-speculative decoding of held-out prompts."""

    heads: tuple[int, ...] | None = None
    """Prediction heads k used by the self-speculative arms; None: every k from 2 to the model's n. In a recipe those
    above a model's n are left out for it. Next-token decoding (k = 1) always runs beside them, and where n is among
    them the number chosen while running."""
    batches: tuple[int, ...] = (1, 4)
    """Sequences decoded together; each size is an experiment of its own."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of weights and caches. Only in float32 can equality with a full forward be expected."""
    prompts: int = 8
    """Held-out prompts, the same for every arm; a multiple of every batch size."""
    prompt_tokens: tuple[int, int] = (32, 96)
    """Shortest and longest prompt, in tokens; lengths are spread over the range, so batches are ragged."""
    new_tokens: int = 96
    """Tokens generated per prompt; nothing stops a sequence earlier."""
    repeats: int = 5
    """Timed repeats of all arms in turn."""
    heldout_tokens: int = 4096
    """Tokens of held-out text on which acceptance is measured under teacher forcing."""
    seed: int = 0
    """Chooses where prompts and held-out windows start."""

    def __post_init__(self) -> None:
        faults = [
            f"{field} is {getattr(self, field)}; it must be at least 1"
            for field in ("prompts", "repeats", "heldout_tokens")
            if getattr(self, field) < 1
        ]
        if self.new_tokens < 2:
            faults.append(f"new_tokens is {self.new_tokens}; it must be at least 2: the first comes with the prompt")
        if self.dtype not in ("float32", "bfloat16"):
            faults.append(f"dtype is {self.dtype!r}; allowed: float32, bfloat16")
        shortest, longest = self.prompt_tokens
        if not 1 <= shortest <= longest:
            faults.append(f"prompt_tokens is {list(self.prompt_tokens)}; it must be [shortest, longest], 1 or more")
        if self.heads is not None and (any(k < 1 for k in self.heads) or len(set(self.heads)) < len(self.heads)):
            faults.append(f"heads is {list(self.heads)}; it must list different numbers, each at least 1")
        if not self.batches or any(b < 1 or self.prompts % b for b in self.batches):
            faults.append(
                f"batches is {list(self.batches)} with prompts = {self.prompts}; it must list sizes of at least 1 "
                f"that divide prompts, so that every batch is full"
            )
        if faults:
            raise ValueError("\n".join(faults))

"""What is measured of a trained model, and on how much text. Needs the standard library alone."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class EvaluationConfig:
    """Held-out scores of a model: loss per head, line completion; for fine-tuned models the completions of their pairs.

    Everything is taken from the test split, which no training reads.
    """

    heldout_tokens: int = 65536
    """Targets scored per head, in tokens, rounded down to whole windows; fewer when the split is shorter."""
    context_length: int = 256
    """Tokens that a window feeds to the model; targets early in a window see less context. At most the length the
    model was trained with."""
    batch_size: int = 16
    """Windows or sequences per forward when scoring."""
    line_items: int = 256
    """Lines to complete, spread over the documents; 0 leaves line completion out."""
    line_context_tokens: int = 192
    """Tokens of the document before the cut that the model sees."""
    line_max_new_tokens: int = 32
    """Tokens generated at most for the rest of a line."""
    body_items: int = 48
    """Completions, function bodies or given ones, to generate with a fine-tuned model; 0 leaves that out."""
    body_max_new_tokens: int = 64
    """Tokens generated at most for a completion; the true one is cut to as many before the two are compared."""
    generation_batch_size: int = 16
    """Sequences generated at once."""
    seed: int = 0
    """Chooses documents, lines, cuts and pairs."""

    def __post_init__(self) -> None:
        may_be_zero = {"line_items", "body_items", "seed"}
        faults = []
        for field in fields(self):
            value, least = getattr(self, field.name), 0 if field.name in may_be_zero else 1
            if value < least:
                faults.append(f"{field.name} is {value}; it must be at least {least}")
        if 1 <= self.heldout_tokens < self.context_length:
            faults.append(
                f"heldout_tokens is {self.heldout_tokens}; it must be at least context_length "
                f"({self.context_length}), one window"
            )
        if faults:
            raise ValueError("\n".join(faults))

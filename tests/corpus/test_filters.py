import pytest

from components.corpus.config import CorpusConfig
from components.corpus.filters import REASONS, Refusal, read_text

ORDINARY = "def add(a, b):\n    return a + b\n" * 20
CONFIG = CorpusConfig()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b" \n\t\r\n " * 100, "empty"),
        (ORDINARY.encode() + b"\0", "binary"),
        ("caf\u00e9 ".encode("latin-1") * 100, "not UTF-8"),
        ("a ".encode("utf-16"), "binary"),
        (b"x = 1\n", "too small"),
        (ORDINARY.encode() * 2000, "too large"),
        (ORDINARY.encode() + b"x" * 1001 + b"\n", "line too long"),
        (b"\n".join([b"word " * 30] * 10), "long lines on average"),
        (b"{}[]();:,.+-*/=<>!?\n" * 20, "few letters and digits"),
        (b"".join(b"(0x%05x, 0x%05x),\n" % (i, i + 9) for i in range(0, 9000, 30)), "many digits"),
    ],
)
def test_a_refusal_names_its_reason(data: bytes, reason: str) -> None:
    outcome = read_text(data, CONFIG)
    assert isinstance(outcome, Refusal)
    assert outcome.reason == reason
    assert outcome.detail
    assert reason in REASONS


def test_an_accepted_text_is_the_file_byte_for_byte() -> None:
    text = "\ufeff" + ORDINARY.replace("\n", "\r\n") + "\x0c\t日本語 é \u2581\n\n"
    outcome = read_text(text.encode(), CONFIG)
    assert outcome == text


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"source": "web"}, "source"),
        ({"path": "/data"}, "path"),
        ({"min_bytes": 0}, "min_bytes"),
        ({"max_bytes_per_document": 100}, "max_bytes_per_document"),
        ({"validation_share": 0.0}, "validation_share"),
        ({"test_share": 0.5}, "test_share"),
        ({"min_alphanumeric_share": 2.0}, "min_alphanumeric_share"),
        ({"max_digit_share": -0.1}, "max_digit_share"),
        ({"max_bytes": 0}, "max_bytes"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(change: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named} is "):
        CorpusConfig(**change)  # type: ignore[arg-type]

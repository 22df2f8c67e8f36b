"""The list of what was left out, `dropped.jsonl`: never held in memory, as it may be longer than what is kept."""

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from components.corpus.filters import REASONS, Refusal
from components.corpus.pieces import Skipped


def dropped_line(skipped: Skipped) -> str:
    """One document left out."""
    line = {"id": skipped.id, "reason": skipped.refusal.reason, "detail": skipped.refusal.detail}
    return json.dumps(line, ensure_ascii=False) + "\n"


DAMAGED = ("unreadable", "broken file", "broken row")
"""Reasons that tell of something wrong with the data, whatever was asked for."""


class Dropped:
    """The list while it grows, and its counts by reason."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")
        self._counts: Counter[str] = Counter()

    def add(self, id: str, reason: str, detail: str) -> None:
        self._file.write(dropped_line(Skipped(id, Refusal(reason, detail))))
        self._counts[reason] += 1

    def take_over(self, lines: Path, counts: Mapping[str, int]) -> None:
        """Append the lines that a task wrote, which it counted."""
        with lines.open(encoding="utf-8") as file:
            shutil.copyfileobj(file, self._file)
        self._counts.update(counts)

    def counts(self) -> dict[str, int]:
        """Documents by reason, in the order of REASONS."""
        return {reason: self._counts[reason] for reason in REASONS if self._counts[reason]}

    def close(self) -> None:
        self._file.close()

    def in_words(self) -> str:
        """What was dropped and what to change about it."""
        if not self._counts:
            return "None was dropped: the source has no more."
        reasons = [f"{count} {reason} ({REASONS[reason]})" for reason, count in self._counts.most_common()]
        return f"Dropped: {'; '.join(reasons)}."

    def warnings(self, kept: int, chosen: bool) -> list[str]:
        """What a person should act on: data that is damaged, or filters that leave less than half of data that
        somebody has chosen."""
        said = []
        damaged = [f"{self._counts[reason]} {reason}" for reason in DAMAGED if self._counts[reason]]
        if damaged:
            said.append(f"left out as damaged: {', '.join(damaged)}; dropped.jsonl names each")
        filtered = sum(self._counts.values()) - self._counts["outside the subset"]
        if chosen and filtered > kept:
            said.append(f"more was left out than kept ({filtered} against {kept} documents). {self.in_words()}")
        return said

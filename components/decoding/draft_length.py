"""How many heads to use, chosen while decoding: the k with the most tokens per second, by what steps with k have cost
so far and by how often drafts at each place have been accepted of late."""

import statistics
from collections import Counter, deque
from collections.abc import Sequence

KEPT_TIMES = 7
"""Steps whose times count, per k: the median of the latest."""
KEPT_TRIES = 8
"""Drafts per place that count of earlier calls."""
MEMORY = 0.98
"""What is left of a count after a step: some fifty steps count."""
ENOUGH = 4
"""Times after which a k's cost counts as known; one is enough for a k that is far from the best."""
NEAR = 0.8
"""A k that would emit at least this share of the best one's tokens per second may be the best in truth."""
TIE = 0.98
"""Within this share of the most tokens per second the smaller k is taken: sequences then end closer together."""
REFRESH_STEPS, VERY_NEAR = 24, 0.9
"""Steps after which the second best is tried again, if it is very near: the machine may have changed."""
REVISIT_SHARE = 0.01
"""Share of the time spent on longer drafts than pay, now and then: their last places are not seen otherwise."""
LEAST_STEPS_BETWEEN = 16


def choices(n: int) -> list[int]:
    """The k to choose from: all up to 4 heads, then some, for neighbours cost and bring nearly the same."""
    return [k for k in range(1, n + 1) if k <= 4 or k == n or k in (6, 8, 12, 16, 24, 32, 48, 64)]


class Experience:
    """Seconds of a step per (sequences, k), and drafts tried and accepted per place. Kept by a decoder, so that later
    calls know what earlier ones measured."""

    def __init__(self, n: int) -> None:
        self._times: dict[tuple[int, int], deque[float]] = {}
        # one accepted of one tried at each place: hopeful at first, and soon outweighed
        self.accepted, self.tried = [1.0] * (n - 1), [1.0] * (n - 1)

    def another_text(self) -> None:
        """Acceptance is a property of the text too: of what earlier ones showed, keep a little."""
        for place, tried in enumerate(self.tried):
            share = min(1.0, KEPT_TRIES / tried)
            self.tried[place] *= share
            self.accepted[place] *= share

    def add(self, sequences: int, k: int, seconds: float) -> None:
        self._times.setdefault((_size(sequences), k), deque(maxlen=KEPT_TIMES)).append(seconds)

    def known(self, sequences: int, k: int) -> int:
        """How many times count."""
        return len(self._times.get((_size(sequences), k), ()))

    def seconds(self, sequences: int, k: int) -> float | None:
        times = self._times.get((_size(sequences), k))
        return statistics.median(times) if times else None


def _size(sequences: int) -> int:
    """Batches of similar size cost much the same, and each new size would have to be tried again."""
    return sequences if sequences <= 4 else 1 << (sequences - 1).bit_length()


class DraftLength:
    """The choice for one batch."""

    def __init__(self, n: int, experience: Experience) -> None:
        self.choices = choices(n)
        self._known = experience
        experience.another_text()
        self._since_longest = self._since_second = 0
        self._catching_up = 0.0
        """Seconds that the last return to the longest draft took beyond its usual step."""

    def acceptance(self) -> list[float]:
        """Per place of a draft, the share accepted of those that were reached."""
        return [a / t for a, t in zip(self._known.accepted, self._known.tried, strict=True)]

    def choose(self, sequences: int) -> int:
        """The k of the next step."""
        known = {k: self._known.known(sequences, k) for k in self.choices}
        if 0 in known.values():  # the longest first: what it shows of acceptance serves all
            return max(k for k in self.choices if not known[k])
        rate = {k: self._tokens(k) / self._seconds(sequences, k) for k in self.choices}
        top = max(rate.values())
        best = min(k for k in self.choices if rate[k] >= TIE * top)
        second = max((k for k in self.choices if k != best), key=lambda k: rate[k])
        near = [k for k in self.choices if rate[k] >= NEAR * rate[best] and known[k] < ENOUGH]
        if near:
            return min(near, key=lambda k: known[k])
        if self._since_second >= REFRESH_STEPS and rate[second] >= VERY_NEAR * rate[best]:
            self._since_second = 0
            return second
        longest = self.choices[-1]
        surplus = (self._seconds(sequences, longest) + self._catching_up) / self._seconds(sequences, best) - 1
        if self._since_longest >= max(LEAST_STEPS_BETWEEN, surplus / REVISIT_SHARE):
            return longest
        return best

    def saw(self, sequences: int, k: int, accepted: Sequence[int], seconds: float, usual: bool) -> None:
        """What a step did: drafts accepted per sequence, seconds, and whether it was a step like others with this k."""
        self._since_longest = 0 if k == self.choices[-1] else self._since_longest + 1
        self._since_second += 1
        if usual:
            self._known.add(sequences, k, seconds)
        elif k == self.choices[-1] and (known := self._known.seconds(sequences, k)) is not None:
            self._catching_up = max(0.0, seconds - known)
        weight = 1 / len(accepted) ** 0.5  # the rows of a batch often do alike
        counts = Counter(accepted)
        reached = len(accepted)
        for place in range(k - 1):
            passed = reached - counts[place]
            keep = MEMORY if reached else 1.0
            self._known.tried[place] = self._known.tried[place] * keep + reached * weight
            self._known.accepted[place] = self._known.accepted[place] * keep + passed * weight
            reached = passed

    def _tokens(self, k: int) -> float:
        """Tokens per forward to be expected."""
        total = share = 1.0
        for place in self.acceptance()[: k - 1]:
            share *= place
            total += share
        return total

    def _seconds(self, sequences: int, k: int) -> float:
        seconds = self._known.seconds(sequences, k)
        assert seconds is not None, (sequences, k)
        return seconds

"""How many heads to use, chosen while decoding: the k with the most tokens per second, by what steps with k have cost
so far and by how often drafts at each place have been accepted of late."""

import math
from collections import Counter
from collections.abc import Sequence

import torch

KEPT_TRIES = 16
"""Drafts per place that count of earlier calls."""
MEMORY = 0.985
"""What is left of a count of drafts after a step: some seventy steps count."""
TIE = 0.98
"""Within this share of the most tokens per second the k in use stays, or else the smallest is taken: a change costs,
and with small k sequences end closer together."""
MOST_TIMES = 24
"""Trust in a cost at most, in times measured: of older ones little is left."""
FADE = 0.997
"""What is left of the trust in every cost after a step: the context grows."""
PACE = 0.2
"""Share of a step's surprise that is put down to the machine, which is faster now and slower then, whatever k."""
SURPRISE = 0.25
"""The most that a step may surprise, in logarithms of its time: a hiccup is not news."""
SETTLED = 2.5
"""Trust from which on a time tells of the machine's pace too."""
DOUBT = 0.08
"""How far off, as a share, a cost measured once may be."""
BUDGET = 0.006
"""Share of the time for steps with k that seem worse than the best."""
LEAST_STEPS_BETWEEN = 16
"""Steps between two tries of the longest draft: what its last places would bring is not seen otherwise."""
MOST_STEPS_TRYING = 3
"""Steps in a row with a k that is tried: the first, to which heads come back, does not count as a time."""


def choices(n: int) -> list[int]:
    """The k to choose from: all up to 4 heads, then some, for neighbours cost and bring nearly the same."""
    return [k for k in range(1, n + 1) if k <= 4 or k == n or k in (6, 8, 12, 16, 24, 32, 48, 64)]


class Experience:
    """What steps cost by (threads, sequences, k), and drafts tried and accepted per place. Kept by a decoder, so that
    later calls know what earlier ones measured.

    A step's time is taken as cost times the machine's pace, which all k share: when another program slows every step,
    the k in use does not look dear beside those that were timed before.
    """

    def __init__(self, n: int) -> None:
        self._log_cost: dict[tuple[int, int, int], float] = {}
        self._trust: dict[tuple[int, int, int], float] = {}
        self._times: dict[tuple[int, int, int], int] = {}
        self._log_pace = 0.0
        self.spare_seconds = 0.0
        """Left of the budget for trying; below 0 where more was spent."""
        # one accepted of one tried at each place: hopeful at first, and soon outweighed
        self.accepted, self.tried = [1.0] * (n - 1), [1.0] * (n - 1)

    def another_text(self) -> None:
        """Acceptance is a property of the text too: of what earlier ones showed, keep a little."""
        for place, tried in enumerate(self.tried):
            share = min(1.0, KEPT_TRIES / tried)
            self.tried[place] *= share
            self.accepted[place] *= share

    def add(self, sequences: int, k: int, seconds: float) -> None:
        """What a step took."""
        key, found = _key(sequences, k), math.log(seconds)
        for other in self._trust:
            self._trust[other] *= FADE
        times = self._times[key] = self._times.get(key, 0) + 1
        if times <= 2:  # a first time may be far too long, never too short
            before = self._log_cost.get(key, math.inf)
            self._log_cost[key], self._trust[key] = min(before, found - self._log_pace), float(times)
            return
        trust = self._trust[key] = min(self._trust[key] + 1, MOST_TIMES)
        surprise = found - self._log_cost[key] - self._log_pace
        if trust >= SETTLED:
            surprise = min(max(surprise, -SURPRISE), SURPRISE)
            self._log_pace += PACE * surprise
        self._log_cost[key] += surprise / trust

    def times(self, sequences: int, k: int) -> int:
        """How many times were measured."""
        return self._times.get(_key(sequences, k), 0)

    def trust(self, sequences: int, k: int) -> float:
        """How many times the cost rests on, older ones counting less; 0 where none was measured."""
        return self._trust.get(_key(sequences, k), 0.0)

    def seconds(self, sequences: int, k: int) -> float | None:
        """What a step would take now; None where none was measured."""
        cost = self._log_cost.get(_key(sequences, k))
        return None if cost is None else math.exp(cost + self._log_pace)


def _key(sequences: int, k: int) -> tuple[int, int, int]:
    """Batches of similar size cost much the same, and each new size would have to be tried again."""
    size = sequences if sequences <= 4 else 1 << (sequences - 1).bit_length()
    return torch.get_num_threads(), size, k


class DraftLength:
    """The choice for one batch."""

    def __init__(self, n: int, experience: Experience) -> None:
        self.choices = choices(n)
        self._known = experience
        experience.another_text()
        self._since_longest = 0
        self._best = n
        self.trying, self._steps_trying = 0, 0
        """The k that is being tried, 0: none."""
        self._unusual = 0
        """Steps in a row that told nothing of their usual time, of a k of which little else is known."""
        self._catching_up = 0.0
        """Seconds that heads last took to make up for what they had missed."""

    def acceptance(self) -> list[float]:
        """Per place of a draft, the share accepted of those that were reached."""
        return [a / t for a, t in zip(self._known.accepted, self._known.tried, strict=True)]

    def choose(self, sequences: int) -> int:
        """The k of the next step."""
        longest = self.choices[-1]
        for times in (1, 2):
            for end in (longest, 1):  # the longest first: what it shows of acceptance serves all
                if self._known.times(sequences, end) < times:
                    return end
        seconds = self._seconds(sequences)
        rate = {k: self._tokens(k) / seconds[k] for k in self.choices}
        good = [k for k in self.choices if rate[k] >= TIE * max(rate.values())]
        best = self._best = self._best if self._best in good else good[0]
        if self.trying and self._steps_trying < MOST_STEPS_TRYING:
            self._steps_trying += 1
            return self.trying
        self.trying = 0
        doubtful = self._may_be_best(sequences, rate)
        if doubtful is None and best != longest and self._since_longest >= LEAST_STEPS_BETWEEN:
            doubtful = longest
        if doubtful is None:
            return best
        loss = 2 * seconds[doubtful] * max(0.0, 1 - rate[doubtful] / rate[best])
        if doubtful > best:
            loss += self._catching_up
        # a k that was never timed is worth going a little into debt
        debt = 3 * seconds[best] if not self._known.times(sequences, doubtful) else 0.0
        # what lay by while drafts were good is not spent all at once when they are bad
        spare = min(self._known.spare_seconds, 4 * seconds[longest])
        if loss > spare + debt:
            return best
        self._known.spare_seconds = spare - loss
        self.trying, self._steps_trying = doubtful, 1
        return doubtful

    def saw(self, sequences: int, k: int, accepted: Sequence[int], seconds: float, usual: bool) -> None:
        """What a step did: drafts accepted per sequence, seconds, and whether it was a step like others with this k."""
        known = self._known
        known.spare_seconds += BUDGET * seconds
        self._since_longest = 0 if k == self.choices[-1] else self._since_longest + 1
        self._unusual = 0 if usual or known.times(sequences, k) > 1 else self._unusual + 1
        if usual or self._unusual > MOST_STEPS_TRYING:  # where no step is usual, they are what a step takes
            known.add(sequences, k, seconds)
            if k == self.trying:
                self.trying = 0
        elif (usually := known.seconds(sequences, k)) is not None:
            self._catching_up = max(0.0, seconds - usually)
        weight = 1 / len(accepted) ** 0.5  # the rows of a batch often do alike
        counts = Counter(accepted)
        reached = len(accepted)
        for place in range(k - 1):
            passed = reached - counts[place]
            keep = MEMORY if reached else 1.0
            known.tried[place] = known.tried[place] * keep + reached * weight
            known.accepted[place] = known.accepted[place] * keep + passed * weight
            reached = passed

    def _may_be_best(self, sequences: int, rate: dict[int, float]) -> int | None:
        """Of the k whose cost is not well known and that may be better than the best, the most promising. One that is
        as good within TIE is known well enough once its cost is settled."""
        hopes = {}
        for k in self.choices:
            trust = self._known.trust(sequences, k)
            hope = rate[k] * (1 + DOUBT / max(trust, 0.5) ** 0.5)
            settled = trust >= SETTLED and TIE * rate[self._best] <= rate[k] <= rate[self._best] / TIE
            if k != self._best and hope > rate[self._best] and not settled:
                hopes[k] = hope
        return max(hopes, key=lambda k: hopes[k]) if hopes else None

    def _tokens(self, k: int) -> float:
        """Tokens per forward to be expected."""
        total = share = 1.0
        for place in self.acceptance()[: k - 1]:
            share *= place
            total += share
        return total

    def _seconds(self, sequences: int) -> dict[int, float]:
        """Of every k; of those never timed, from the line between their neighbours that were."""
        known = {k: found for k in self.choices if (found := self._known.seconds(sequences, k)) is not None}
        seconds = {}
        for k in self.choices:
            below, above = max(j for j in known if j <= k), min(j for j in known if j >= k)
            share = (k - below) / max(1, above - below)
            seconds[k] = known[below] + share * (known[above] - known[below])
        return seconds

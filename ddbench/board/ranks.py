"""Ranks with intervals: rows whose difference is not significant share a rank.

**The test** (level 0.05, two-sided, no correction for the number of pairs): one value a distillation, its students averaged.
Where two rows have the same seeds, two or more, the differences seed by seed (Student's t); otherwise Welch's t on the two
lists.  A row of a single distillation has the students of that one set for its list: that says nothing about the
next distillation, so such a row looks surer than it is.  A single student can't be tested against anything.

**The rank** is a range from the first to the last place that a row may hold.  The last place is the number of rows less those
that are significantly worse.  The first is one more than the number of significantly better rows, or than that of any row of at
least its mean, whichever is more: "not significantly different" is not transitive, and a row with few or scattered
values must not pass a better one by being unsure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

LEVEL = 0.05
_TINY = 1e-9
"""Percent points under which two means, or all values of a list, are equal: rounding of sums."""
_AT_ONCE = 4_000_000
"""Numbers held for the differences of pairs."""


@dataclass(frozen=True)
class Sample:
    """What a row is tested by; percent."""

    seeds: tuple[int, ...]
    """Of the distillations, sorted."""
    values: tuple[float, ...]
    """A mean a seed, or the students of a single distillation."""


def sample(means: dict[int, float], students: Sequence[float]) -> Sample:
    """Of a row: ``means`` by seed, ``students`` those of the only distillation (read where there is one)."""
    seeds = tuple(sorted(means))
    own = tuple(students) if len(seeds) == 1 else ()
    return Sample(seeds, own or tuple(means[s] for s in seeds))


def better(samples: Sequence[Sample]) -> NDArray[np.bool_]:
    """(N, N): whether row i is significantly better than row j."""
    n = len(samples)
    found: NDArray[np.bool_] = np.zeros((n, n), dtype=bool)
    alike: dict[tuple[int, ...], list[int]] = {}
    for i, s in enumerate(samples):
        alike.setdefault(s.seeds, []).append(i)
    paired: NDArray[np.bool_] = np.eye(n, dtype=bool)
    for seeds, rows in alike.items():
        if len(seeds) > 1 and len(rows) > 1:
            where = np.ix_(rows, rows)
            found[where] = _paired(np.array([samples[i].values for i in rows]))
            paired[where] = True
    if not paired.all():
        _welch(samples, ~paired, found)
    return found


def _exceeds(
    gap: NDArray[np.float64], error: NDArray[np.float64], df: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Whether a gap is above so many standard errors that chance gives it in less than half of ``LEVEL``."""
    over: NDArray[np.bool_] = (gap > _TINY) & (gap > error * stdtrit(df, 1 - LEVEL / 2))
    return over


def _paired(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    rows, seeds = values.shape
    found: NDArray[np.bool_] = np.zeros((rows, rows), dtype=bool)
    df = np.array(seeds - 1.0)
    step = max(1, _AT_ONCE // (rows * seeds))
    for i in range(0, rows, step):
        gaps = values[i : i + step, None, :] - values[None, :, :]
        errors = gaps.std(axis=2, ddof=1) / np.sqrt(seeds)
        found[i : i + step] = _exceeds(gaps.mean(axis=2), errors, df)
    return found


def _welch(samples: Sequence[Sample], pairs: NDArray[np.bool_], found: NDArray[np.bool_]) -> None:
    counts = np.array([len(s.values) for s in samples], dtype=float)
    means = np.array([np.mean(s.values) for s in samples])
    errors = np.array(
        [np.var(s.values, ddof=1) / len(s.values) if len(s.values) > 1 else 0.0 for s in samples]
    )
    can = counts > 1
    i, j = np.nonzero(pairs & can[:, None] & can[None, :] & (means[:, None] > means[None, :]))
    both = errors[i] + errors[j]
    parts = errors[i] ** 2 / (counts[i] - 1) + errors[j] ** 2 / (counts[j] - 1)
    df = np.divide(both**2, parts, out=np.full(len(i), np.inf), where=parts > 0)
    df = np.where(np.isfinite(df), df, counts[i] + counts[j] - 2)  # no spread on either side: any will do
    found[i, j] = _exceeds(means[i] - means[j], np.sqrt(both), df)


def places(means: Sequence[float], samples: Sequence[Sample]) -> list[tuple[int, int]]:
    """(first, last) place of each row, as the head of this module says; ``means`` are those of the table."""
    if not means:
        return []
    at = np.round(np.asarray(means, dtype=float), 9)
    beats = better(samples) & (at[:, None] > at[None, :])
    above, below = beats.sum(axis=0), beats.sum(axis=1)
    order = np.argsort(-at, kind="stable")
    most: dict[float, int] = {}
    running = 0
    for k in order:
        running = max(running, int(above[k]))
        most[float(at[k])] = running  # of equal means the last one met has the maximum of all of them
    return [(1 + most[float(m)], len(at) - int(b)) for m, b in zip(at, below, strict=True)]

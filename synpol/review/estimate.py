"""Estimate shares and numbers of a whole result from a random sample, with 95 % intervals.

Plain functions over counts. Strata weigh as many synapses as they hold (W. G. Cochran, Sampling
Techniques, 1977, chapter 5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaincinv, ndtri  # scipy.stats takes a second to import

#: quantile of the normal distribution for intervals of 95 %
Z = float(ndtri(0.975))


type Counts = Sequence[int] | np.ndarray


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval of 95 %.

    Attributes
    ----------
    value, low, high : float
    judged : int
        Number of verdicts behind it.
    effective : float
        Size of a simple random sample that would tell as much; infinite where all was judged.
    """

    value: float
    low: float
    high: float
    judged: int
    effective: float

    @property
    def width(self) -> float:
        """Length of the interval."""
        return self.high - self.low

    def times(self, factor: float) -> Interval:
        """This estimate in other units."""
        low, value, high = (factor * v for v in (self.low, self.value, self.high))
        return Interval(value, low, high, self.judged, self.effective)


def wilson(share: float, size: float) -> tuple[float, float]:
    """Return the interval of a share by E. B. Wilson (1927).

    Parameters
    ----------
    share : float
        Observed share.
    size : float
        Number of observations behind it, whole or effective.
    """
    if not np.isfinite(size):
        return share, share
    if size <= 0:
        return 0.0, 1.0
    middle = (share + Z**2 / (2 * size)) / (1 + Z**2 / size)
    half = Z * np.sqrt(share * (1 - share) / size + Z**2 / (4 * size**2)) / (1 + Z**2 / size)
    return max(0.0, min(share, float(middle - half))), min(1.0, max(share, float(middle + half)))


def share(sizes: Counts, judged: Counts, hits: Counts) -> Interval | None:
    """Estimate the share of synapses that have a property.

    The interval is Wilson's for the effective size of the sample, which is the size of the simple
    random sample with the same variance (E. L. Korn and B. I. Graubard, Survey Methodology 24,
    1998; N. Dean and M. Pagano, Journal of Survey Statistics and Methodology 3, 2015). So that a
    stratum without a miss does not count as certain, its share is drawn towards that of all strata,
    with the weight of two verdicts.

    Parameters
    ----------
    sizes, judged, hits : sequences of int
        Number of synapses of each stratum, of those judged, and of those with the property.

    Returns
    -------
    Interval or None
        None as long as there is a stratum of which nothing was judged.
    """
    size, number, hit = (np.asarray(c, float) for c in (sizes, judged, hits))
    if not len(number) or not number.all():
        return None
    weight = size / size.sum()
    value = float(weight @ (hit / number))
    pooled = (hit.sum() + 1) / (number.sum() + 2)
    smooth = (hit + 2 * pooled) / (number + 2)
    left = 1 - number / size  # of a stratum that was judged whole nothing is uncertain
    variance = float(weight**2 @ (left * smooth * (1 - smooth) / number))
    centre = float(weight @ smooth)
    effective = centre * (1 - centre) / variance if variance > 0 else np.inf
    return Interval(value, *wilson(value, effective), int(number.sum()), effective)


def ratio(sizes: Counts, judged: Counts, base: Counts, hits: Counts) -> Interval | None:
    """Estimate the share of synapses with a property among those of a kind.

    It is the combined ratio estimator (Cochran, 6.11), with Wilson's interval for its effective
    size.

    Parameters
    ----------
    sizes, judged : sequences of int
        As in `share`.
    base, hits : sequences of int
        Number of judged synapses of the kind, and of those of them with the property.

    Returns
    -------
    Interval or None
        None as long as there is a stratum of which nothing was judged, or no synapse of the kind.
    """
    size, number, kind, hit = (np.asarray(c, float) for c in (sizes, judged, base, hits))
    if not number.all() or not kind.sum():
        return None
    weight = size / size.sum()
    of_kind = float(weight @ (kind / number))
    value = float(weight @ (hit / number)) / of_kind
    pooled = (hit.sum() + 1) / (kind.sum() + 2)
    within = (hit + 2 * pooled) / (kind + 2)
    rate = (kind + 2 * (kind.sum() / number.sum())) / (number + 2)
    mean = rate * (within - pooled)
    square = rate * (within * (1 - pooled) ** 2 + (1 - within) * pooled**2)
    left = 1 - number / size
    variance = float(weight**2 @ (left * (square - mean**2) / number)) / of_kind**2
    effective = pooled * (1 - pooled) / variance if variance > 0 else np.inf
    value = min(1.0, max(0.0, value))
    return Interval(value, *wilson(value, effective), int(kind.sum()), effective)


def number_in_boxes(counts: Counts, total: int) -> Interval | None:
    """Estimate a number of things in a volume from how many lie in boxes drawn at random.

    The interval is that of a Poisson number (F. Garwood, Biometrika 28, 1936), widened where the
    boxes differ more than such numbers do.

    Parameters
    ----------
    counts : sequence of int
        Number in each box that was searched.
    total : int
        Number of boxes that fill the volume.
    """
    if not len(counts):
        return None
    seen, boxes = float(np.sum(counts)), len(counts)
    if boxes == total:
        return Interval(seen, seen, seen, boxes, np.inf)
    low = float(gammaincinv(seen, 0.025)) if seen else 0.0  # quantiles of chi-squared, halved
    high = float(gammaincinv(seen + 1, 0.975))
    spread = np.var(counts, ddof=1) / np.mean(counts) if boxes > 1 and seen else 1.0
    wider = np.sqrt(max(1.0, spread) * (1 - boxes / total))
    factor = total / boxes
    return Interval(
        factor * seen,
        factor * max(0.0, seen - wider * (seen - low)),
        factor * (seen + wider * (high - seen)),
        boxes,
        float(boxes),
    )


def total(*parts: Interval | None) -> Interval | None:
    """Add independent estimates, and their intervals as G. Y. Zou and A. Donner do (2008)."""
    known = [one for one in parts if one is not None]
    if not known:
        return None
    value = sum(one.value for one in known)
    below = math.sqrt(sum((one.value - one.low) ** 2 for one in known))
    above = math.sqrt(sum((one.high - one.value) ** 2 for one in known))
    judged, effective = sum(o.judged for o in known), sum(o.effective for o in known)
    return Interval(value, max(0.0, value - below), value + above, judged, effective)


def part_of_both(found: Interval, missed: Interval) -> Interval | None:
    """Return found / (found + missed), with the interval of a ratio (Donner and Zou, 2012).

    Returns
    -------
    Interval or None
        None where nothing was found.
    """
    a, b = found, missed
    if a.value <= 0:
        return None
    product = a.value * b.value

    def bound(of_b: float, of_a: float, sign: int) -> float:
        below = of_a * (2 * a.value - of_a)
        root = product**2 - of_b * (2 * b.value - of_b) * below
        if below <= 0:
            return 0.0 if sign < 0 else np.inf
        return float((product + sign * np.sqrt(max(0.0, root))) / below)

    odds = b.value / a.value
    low, high = bound(b.low, a.high, -1), bound(b.high, a.low, 1)  # of the odds
    ends = 1 / (1 + high), 1 / (1 + max(0.0, low))
    value = 1 / (1 + odds)
    judged = a.judged + b.judged
    return Interval(value, min(value, ends[0]), max(value, ends[1]), judged, np.nan)


def more_verdicts(now: Interval, width: float, size: int) -> int:
    """Return how many more verdicts would bring an interval of a share to a width.

    Parameters
    ----------
    now : Interval
        Estimate so far; more verdicts are assumed to be like those behind it.
    width : float
        Wanted length of the interval.
    size : int
        Number of synapses that there are.
    """
    if now.width <= width or now.judged >= size:
        return 0
    per_verdict = now.effective / now.judged
    low, high = now.judged, size
    while low < high:
        middle = (low + high) // 2
        left = (1 - middle / size) / max(1e-9, 1 - now.judged / size)
        effective = per_verdict * middle / left if left > 0 else np.inf
        below, above = wilson(now.value, effective)
        low, high = (low, middle) if above - below <= width else (middle + 1, high)
    return low - now.judged


def kappa(first: Sequence[str], second: Sequence[str]) -> Interval | None:
    """Return Cohen's kappa, the agreement of two reviewers beyond chance.

    Its interval has the standard error of J. L. Fleiss, J. Cohen and B. S. Everitt (Psychological
    Bulletin 72, 1969).

    Parameters
    ----------
    first, second : sequences of str
        Verdicts of both about the same synapses.

    Returns
    -------
    Interval or None
        None where both have judged nothing in common, or gave one and the same verdict to all.
    """
    names: list[str] = sorted({*first, *second})
    if len(names) < 2:
        return None
    at = {name: place for place, name in enumerate(names)}
    table = np.zeros((len(names),) * 2)
    np.add.at(table, ([at[f] for f in first], [at[s] for s in second]), 1)
    count = table.sum()
    table /= count
    rows, columns = table.sum(axis=1), table.sum(axis=0)
    observed, expected = float(np.trace(table)), float(rows @ columns)
    value = (observed - expected) / (1 - expected)
    same = np.diag(table) @ (1 - (rows + columns) * (1 - value)) ** 2
    other = (table * (columns[:, None] + rows[None, :]) ** 2 * (1 - np.eye(len(names)))).sum()
    square = same + (1 - value) ** 2 * other - (value - expected * (1 - value)) ** 2
    error = math.sqrt(max(0.0, float(square)) / count) / (1 - expected)
    half = Z * error
    return Interval(value, max(-1.0, value - half), min(1.0, value + half), int(count), count)

"""Means with confidence intervals, for measurements made in parts of documents.

Parts of one document resemble each other, so whole documents are resampled: the cluster bootstrap
(Field and Welsh 2007, JRSS B 69), here of a ratio of sums. Two measurements of the same parts are
compared pairwise. Knows nothing of models.

Shapes: P parts, U units of the bootstrap, R resamples.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

NUM_RESAMPLES = 2000
CONFIDENCE = 0.95
MIN_DOCUMENTS = 8  # with fewer, their resamples are too few and too coarse


class Estimate(NamedTuple):
    """A mean and its confidence interval."""

    mean: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        """All three in the format of one number: `mean (low .. high)`."""
        mean, low, high = (format(each, spec) for each in self)
        return f"{mean} ({low} .. {high})"


@dataclass(frozen=True)
class Tally:
    """What was counted, and out of how many, in every part; the document each part is from."""

    sums_P: np.ndarray
    counts_P: np.ndarray
    documents_P: np.ndarray

    @property
    def mean(self) -> float:
        return float(self.sums_P.sum() / self.counts_P.sum())

    @property
    def by_document(self) -> bool:
        """Whether documents are the units of the bootstrap, or else, too few, the parts."""
        return len(np.unique(self.documents_P)) >= MIN_DOCUMENTS

    def __sub__(self, other: "Tally") -> "Tally":
        """The difference part by part; both must have been counted on the same parts."""
        assert np.array_equal(self.counts_P, other.counts_P)
        assert np.array_equal(self.documents_P, other.documents_P)
        return Tally(self.sums_P - other.sums_P, self.counts_P, self.documents_P)

    def estimate(self, seed: int = 0) -> Estimate:
        """The mean with its percentile bootstrap interval; the same every time."""
        units_P = self.documents_P if self.by_document else np.arange(len(self.sums_P))
        _, units_P = np.unique(units_P, return_inverse=True)
        sums_U = np.bincount(units_P, self.sums_P)
        counts_U = np.bincount(units_P, self.counts_P)
        num_units = len(sums_U)
        picks_RU = np.random.default_rng(seed).integers(num_units, size=(NUM_RESAMPLES, num_units))
        means_R = sums_U[picks_RU].sum(axis=1) / counts_U[picks_RU].sum(axis=1)
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(means_R, [tail, 1 - tail])
        return Estimate(self.mean, float(low), float(high))


def difference(at_plan: Tally, reference: Tally) -> Estimate:
    """How much more the plan has than the reference, paired."""
    return (at_plan - reference).estimate()

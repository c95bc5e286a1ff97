"""Judging samples: medians and paired comparisons, with intervals that keep their promise. Pure.

**Censoring.** A trial that failed or ran into its timeout has a duration too: longer than any that
would have been waited for. It enters as infinity, never as 0 and never not at all. Order statistics
need nothing else: the median of nine samples of which two are infinite is a plain number, and when
most trials failed the median is infinite itself, which the report prints as "not reached".

**Intervals** are for the median over blocks and aim at 95 %:

- Fewer than 6 blocks: no method reaches 95 %. The interval is the range of the samples and carries
  its true coverage, 1 - 2^(1-n): 93.75 % for 5 blocks, 50 % for 2.
- 6 blocks and more: interpolated order statistics (Hettmansperger & Sheather 1986; for other
  quantiles Nyblom 1992). They assume independent blocks and next to nothing about their
  distribution, need no random numbers, take infinities as they come, and cost a sort.

The choice was made by simulation. Coverage in per cent of 4,000 simulated runs, worst and best of
nine distributions (normal, log-normal with sigma 1, Pareto 1.5, Student's t with 2 degrees of
freedom, two mixtures of two groups, exponential, start times of containers as measured and the
logarithms of their A/A ratios), and width as a share of that of exact order statistics:

======  ============  ============  ============  ============  ==========================
blocks  percentile    BCa           exact         interpolated  widths: perc. / BCa / int.
======  ============  ============  ============  ============  ==========================
     6  88.3 to 94.2  88.4 to 93.9  96.7 to 97.2  92.4 to 95.3  0.72 / 0.69 / 0.81
     7  86.5 to 88.1  86.6 to 88.1  98.2 to 98.6  93.9 to 95.2  0.52 / 0.52 / 0.64
     8  89.8 to 93.4  91.7 to 93.4  99.0 to 99.6  94.1 to 95.4  0.55 / 0.50 / 0.56
     9  81.2 to 96.4  85.7 to 96.4  95.6 to 96.5  93.4 to 95.6  1.00 / 1.00 / 0.91
    10  90.0 to 94.2  90.9 to 93.7  97.2 to 98.0  94.2 to 94.7  0.68 / 0.70 / 0.75
    12  92.0 to 94.3  92.4 to 94.8  95.9 to 96.4  94.8 to 95.2  0.83 / 0.82 / 0.91
    15  88.7 to 93.0  89.6 to 92.7  96.0 to 96.9  94.6 to 95.5  0.82 / 0.82 / 0.89
    20  92.3 to 94.2  92.3 to 94.7  95.4 to 96.4  94.6 to 95.5  0.88 / 0.88 / 0.94
    30  93.0 to 95.2  93.0 to 95.2  95.3 to 96.3  94.5 to 95.8  0.93 / 0.94 / 0.96
    40  92.7 to 95.7  92.8 to 95.5  95.8 to 96.8  94.7 to 95.5  0.93 / 0.94 / 0.93
    60  93.4 to 95.8  93.3 to 95.8  96.5 to 97.7  94.4 to 95.7  0.84 / 0.84 / 0.88
   100  93.2 to 96.3  93.3 to 96.5  96.3 to 96.8  94.9 to 95.4  0.91 / 0.91 / 0.92
======  ============  ============  ============  ============  ==========================

The bootstrap of a median can only return samples or means of two of them, and the acceleration of
BCa (Efron 1987) degenerates: leaving a sample out moves the median to one of two or three values.
Where a bootstrap over blocks could still have been the better one, it was not either: for quantiles
of samples of which several share a block (6 blocks of 2: 82 % for BCa, 95 % for Woodruff's
interval), and for Cliff's delta (10 blocks, 10 % longer: 91 against 98 %; 60 blocks: 95 and 96 %).
`tests/bench/test_statistics.py` simulates all of this and prints its tables.

numpy is imported at its first use (`harness.stats.arrays`), not with this package.
"""

from harness.stats.effect import Effect, cliffs_delta
from harness.stats.estimates import Estimate, estimate, quantile, quantile_estimate, relative_width
from harness.stats.intervals import FEWEST_FOR_LEVEL, LEVEL, Interval, Method
from harness.stats.lines import Line, line
from harness.stats.pairs import Comparison, paired_difference, paired_ratio
from harness.stats.shapes import Shape, shape

__all__ = [
    "FEWEST_FOR_LEVEL",
    "LEVEL",
    "Comparison",
    "Effect",
    "Estimate",
    "Interval",
    "Line",
    "Method",
    "Shape",
    "cliffs_delta",
    "estimate",
    "line",
    "paired_difference",
    "paired_ratio",
    "quantile",
    "quantile_estimate",
    "relative_width",
    "shape",
]

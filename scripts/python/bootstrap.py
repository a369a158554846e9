"""95 % intervals, the one way in which scores, sweeps, studies and analyses get theirs: what is measured is drawn anew with replacement, and the interval is what lies
between the quantiles of the draws' means."""

import numpy as np

RESAMPLES = 2000
BOUNDS = (0.025, 0.975)


def _counts(draw, size, resamples):
    """[resamples, size]: how often each of `size` is drawn; `draw` is a numpy generator."""
    return draw.multinomial(size, np.full(size, 1 / size), resamples)


def shares(draw, size, resamples=RESAMPLES):
    """The same as shares of the draw, for statistics that are no plain mean."""
    return _counts(draw, size, resamples) / size


def bootstrap(matrix, seed=1, resamples=RESAMPLES):
    """(mean, low, high) of a matrix [seed × item] whose rows and columns are drawn independently of one another, so the interval says what other seeds *and* other
    items might have given. With one seed and one item there is no interval: low and high are None."""
    matrix = np.asarray(matrix, float)
    seeds, items = matrix.shape
    mean = float(matrix.mean())
    if seeds * items == 1:
        return mean, None, None
    draw = np.random.default_rng(seed)
    # Divided once, at the end: sums of counts are exact, so that all right is 1 and not a little more.
    means = np.einsum("rs,si,ri->r", _counts(draw, seeds, resamples), matrix, _counts(draw, items, resamples), optimize=True) / (seeds * items)
    low, high = np.quantile(means, BOUNDS)
    return mean, float(low), float(high)


def interval(matrix, seed=1):
    """[low, high] of the same, for tables that need two numbers: one value has no interval but itself."""
    mean, low, high = bootstrap(matrix, seed)
    return [mean, mean] if low is None else [low, high]

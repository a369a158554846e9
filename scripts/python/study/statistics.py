"""Means, paired differences and what else a study's tables say. A measure of a member is a matrix [seed × item]: the seeds are the study's, the items are the same for all members and
seeds. A measure without items (a loss) has one column."""

import numpy as np

from bootstrap import bootstrap


def paired(one, other):
    """The two matrices of what both have: {seed: row} each. Items are those of the task, so rows are equally long."""
    seeds = sorted(set(one) & set(other))
    return np.array([one[seed] for seed in seeds], float), np.array([other[seed] for seed in seeds], float), seeds


def difference(one, other, seed=1):
    """(mean, low, high, seeds) of one - other, seed by seed and item by item; None where they have no seed in common."""
    first, second, seeds = paired(one, other)
    if not seeds:
        return None
    return *bootstrap(first - second, seed), seeds


def joined(rows):
    """One row of several tasks' rows, each task weighing the same: items of longer tasks count less."""
    total = sum(map(len, rows))
    return np.concatenate([np.asarray(row, float) * (total / (len(rows) * len(row))) for row in rows])


def tokens_to_reach(curve, loss):
    """Tokens at which a validation curve [(tokens, loss)] first comes down to `loss`, between two of its points by a straight line; None where it never does."""
    for (tokens, value), (next_tokens, next_value) in zip([curve[0], *curve], curve):
        if next_value <= loss:
            share = 1.0 if value <= next_value else (value - loss) / (value - next_value)
            return tokens + (next_tokens - tokens) * min(1.0, max(0.0, share))
    return None


def correlation(one, other):
    """Pearson's, over places where both are finite; None where that are fewer than three, or one of them does not vary."""
    one, other = np.ravel(np.array(one, float)), np.ravel(np.array(other, float))
    if one.shape != other.shape:
        return None
    both = np.isfinite(one) & np.isfinite(other)
    if both.sum() < 3 or np.ptp(one[both]) == 0 or np.ptp(other[both]) == 0:
        return None
    return float(np.corrcoef(one[both], other[both])[0, 1])

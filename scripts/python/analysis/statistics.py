"""Numbers out of what was measured on each text: means and maxima, bootstrap intervals over texts, entropies of experts, and how much of a period stands in
the calls, against the same calls in random order."""

import warnings

import numpy as np

from bootstrap import BOUNDS, shares as drawn_shares

PERMUTATIONS = 1000
LEAST = 1e-6  # of a contribution, before its logarithm


def array(nested):
    """Nested lists as float64, None as NaN."""
    return np.array(nested, dtype=float)


def nested(values):
    """The same back, for JSON: a number where there is no axis."""
    def clean(value):
        return [clean(each) for each in value] if isinstance(value, list) else None if value != value else value

    return clean(np.asarray(values, dtype=float).tolist())


def largest(values):
    """Over texts, the first axis; NaN where it is NaN for all."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmax(values, axis=0)


def interval(of_draw, texts, seed):
    """95 % of of_draw(shares of the texts) over the bootstrap's draws: (low, high)."""
    draws = drawn_shares(np.random.default_rng(seed), texts)
    low, high = np.nanquantile(np.array([of_draw(own) for own in draws]), BOUNDS, axis=0)
    return low, high


def mean(values, weights=None, shares=None):
    """The weighted mean over the first axis; `shares`: of each text, 1/n each by default."""
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, float)
    weights = weights if shares is None else weights * shares
    return np.tensordot(weights / weights.sum(), values, axes=1)


def summary(values, seed, weights=None, statistic=None):
    """{"values", "low", "high", "n"} of the mean over texts, or of statistic(values, shares of the texts)."""
    statistic = statistic or (lambda own, shares: mean(own, weights, shares))
    texts = len(values)
    found = {"values": nested(statistic(values, np.full(texts, 1 / texts))), "n": texts}
    if texts > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            low, high = interval(lambda shares: statistic(values, shares), texts, seed)
        found |= {"low": nested(low), "high": nested(high)}
    return found


# Experts.


def effective_number(counts):
    """exp of the entropy of the last axis; NaN where nothing is counted."""
    totals = counts.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = counts / totals
        terms = np.where(shares > 0, shares * np.log(shares), 0.0)
    return np.where(totals[..., 0] > 0, np.exp(-terms.sum(axis=-1)), np.nan)


def pooled_counts(counts, blocks):
    """[texts, calls, experts] -> [texts, experts of all blocks]: the calls of one block together."""
    chosen = [call for call in range(counts.shape[1]) if not np.isnan(counts[:, call]).all()]
    own = {block: sum(np.nan_to_num(counts[:, call]) for call in chosen if blocks[call] == block) for block in {blocks[call] for call in chosen}}
    return np.concatenate([own[block] for block in sorted(own)], axis=1)


# Periods.


def periods(calls):
    """Those that are looked for: of 2 calls up to half of them."""
    return list(range(2, calls // 2 + 1))


def wave(contributions):
    """The logarithm of a contribution by call, without its mean and its linear trend."""
    logs = np.log(np.maximum(np.nan_to_num(contributions, nan=LEAST), LEAST))
    calls = np.arange(len(logs))
    return logs - np.polyval(np.polyfit(calls, logs, 1), calls)


def period_power(waves):
    """Of each period b of periods(calls), |sum_l x_l exp(-2 pi i l / b)|^2 / (L sum_l x_l^2), L calls: the share of the Fourier power at that
    frequency. waves: [..., L]; a wave without any power has none at a period."""
    calls = waves.shape[-1]
    turns = np.exp(-2j * np.pi * np.outer(np.arange(calls), 1 / np.array(periods(calls))))
    total = calls * (waves ** 2).sum(axis=-1, keepdims=True)
    return np.abs(waves @ turns) ** 2 / np.where(total > 1e-12, total, np.inf)


def permuted_power(contributions, seed):
    """(mean, 95 % quantile, share of the permutations that reach the power itself), by period: of the same calls in random order."""
    own = wave(contributions)
    generator = np.random.default_rng(seed)
    powers = period_power(np.stack([generator.permutation(own) for _ in range(PERMUTATIONS)]))
    reached = (1 + (powers >= period_power(own) - 1e-12).sum(axis=0)) / (1 + PERMUTATIONS)
    return powers.mean(axis=0), np.quantile(powers, 0.95, axis=0), reached


def cosines(products):
    """Of blocks, from the products between them."""
    norms = np.sqrt(np.diag(products))
    with np.errstate(divide="ignore", invalid="ignore"):
        return products / np.outer(norms, norms)


def group_products(products, size):
    """Between groups of `size` blocks, each group's weights one vector: the products of blocks at the same place in their groups."""
    count = len(products) // size
    return np.array([[sum(products[i * size + k, j * size + k] for k in range(size)) for j in range(count)] for i in range(count)])

"""The signatures of analysis.json (docs/analysis.md has their equations): which measure of the program each comes from, and how it is made of numbers by text."""

from dataclasses import dataclass
from typing import Callable

import numpy as np

from analysis import statistics as stats

MIXERS = ("attention", "depth_attention", "feed_forward")


@dataclass
class Raw:
    """What the program measured of one model: its answer, and what a bootstrap draws with."""
    answer: dict
    seed: int
    chances: dict  # of the tasks, by name

    @property
    def calls(self):
        return [str(call) for call in range(len(self.answer["calls"]))]

    @property
    def blocks(self):
        return self.answer["calls"]

    def has(self, name):
        return name in self.answer["measured"]

    def values(self, name):
        return stats.array(self.answer["measured"][name]["values"])

    def variants(self, name):
        return {variant: stats.array(values) for variant, values in self.answer["measured"][name].get("variants", {}).items()}

    def means(self, name, weights=None):
        """The mean over texts, and those of the mixers."""
        found = stats.summary(self.values(name), self.seed, weights)
        own = {variant: stats.summary(values, self.seed, weights) for variant, values in self.variants(name).items()}
        return found | ({"variants": own} if own else {})


class LeftOut(Exception):
    """Why a signature does not apply."""


@dataclass
class Signature:
    title: str
    what: str
    unit: str
    measure: str   # of the program (`meristem analyze --measure`)
    source: str    # what of its answer; without it the signature is left out
    make: Callable  # of Raw: {"axes", "values", …}


def axis(name, labels):
    return {"name": name, "labels": labels}


def effect(raw, name):
    """The largest over texts, as in the papers; beside it the mean, which has an interval."""
    values, variants = raw.values(name), raw.variants(name)
    own = {mixer: {"values": stats.nested(stats.largest(of_mixer)), "n": len(of_mixer)} for mixer, of_mixer in variants.items()}
    own["mean over texts"] = stats.summary(values, raw.seed)
    return {"axes": [axis("skipped call", raw.calls), axis("changed call", raw.calls)], "values": stats.nested(stats.largest(values)), "n": len(values), "variants": own}


def by_call(name, weighted=False):
    def make(raw):
        return {"axes": [axis("call", raw.calls)]} | raw.means(name, raw.answer["tokens"] if weighted else None)

    return make


def residual(raw):
    return {"axes": [axis("behind", ["embedding", *raw.calls])]} | raw.means("residual_norm", raw.answer["tokens"])


def depth_score(raw):
    def score(values, shares):
        effects = stats.mean(values, shares=shares)
        return np.array((np.arange(len(effects)) * effects).sum() / effects.sum() if effects.sum() > 0 else np.nan)

    values = raw.values("output_effect")
    own = {mixer: stats.summary(of_mixer, raw.seed, statistic=score) for mixer, of_mixer in raw.variants("output_effect").items()}
    return {"axes": []} | stats.summary(values, raw.seed, statistic=score) | {"variants": own}


def tasks_beside(raw, found, name, unit, what):
    """The measure on tasks, as variants."""
    own = {}
    for task, values in raw.variants(name).items():
        own[task] = {"unit": unit, "what": what} | stats.summary(values, raw.seed)
        if unit == "accuracy":
            own[task]["chance"] = raw.chances[task]
    return found | ({"variants": own} if own else {})


def early_exit(name):
    def make(raw):
        found = {"axes": [axis("exit behind call", raw.calls)]} | stats.summary(raw.values(name), raw.seed)
        return tasks_beside(raw, found, name, "accuracy", "items of the task answered right if the model stops behind the call")

    return make


def edit(name):
    def make(raw):
        found = {"axes": [axis("size", [str(size) for size in raw.answer["sizes"][name]]), axis("start", raw.calls)]} | stats.summary(raw.values(name), raw.seed)
        return tasks_beside(raw, found, name, "change of accuracy", "items of the task answered right, against the plan as it is")

    return make


def period_power(raw):
    calls = len(raw.blocks)
    if calls < 6:
        raise LeftOut(f"the plan has {calls} calls; a period needs at least 6")

    def power(values, shares):
        return stats.period_power(stats.wave(stats.mean(values, raw.answer["tokens"], shares)))

    def of(values):
        average, high, reached = stats.permuted_power(stats.mean(values, raw.answer["tokens"]), raw.seed)
        return stats.summary(values, raw.seed, statistic=power) | {"null": {"values": stats.nested(average), "high": stats.nested(high), "p": stats.nested(reached)}}

    variants = raw.variants("norms")
    if "attention" not in variants:
        raise LeftOut("no block has an attention")
    others = {mixer: of(values) for mixer, values in variants.items() if mixer != "attention"}
    return {"axes": [axis("period", [str(period) for period in stats.periods(calls)])]} | of(variants["attention"]) | {"variants": others}


def similarity(raw):
    blocks = raw.answer["blocks"]
    if blocks == 1:
        raise LeftOut("the model has one block")
    labels = [str(block) for block in range(blocks)]
    return {"axes": [axis("block", labels), axis("other block", labels)]} | of_products(raw, stats.cosines)


def group_similarity(raw):
    blocks, period = raw.answer["blocks"], raw.answer["period"]
    if not period:
        raise LeftOut("the model neither grew by groups of blocks nor loops one")
    if blocks % period or blocks < 2 * period or period == 1:
        raise LeftOut(f"{blocks} blocks are not several groups of {period}, which is the period")
    labels = [f"{first}-{first + period - 1}" for first in range(0, blocks, period)]
    return {"axes": [axis("blocks", labels), axis("other blocks", labels)]} | of_products(raw, lambda products: stats.cosines(stats.group_products(products, period)))


def of_products(raw, made):
    variants = {mixer: {"values": stats.nested(made(products)), "n": 1} for mixer, products in raw.variants("weight_products").items()}
    return {"values": stats.nested(made(raw.values("weight_products"))), "n": 1, "variants": variants}


def by_chance(raw, name):
    return {"values": stats.nested(stats.mean(raw.variants(name)["by chance"]))}


def diversity(raw):
    return {"axes": []} | stats.summary(raw.values("expert_diversity"), raw.seed) | {"null": by_chance(raw, "expert_diversity")}


def overlap(raw):
    axes = [axis("call", raw.calls), axis("other call", raw.calls)]
    return {"axes": axes} | stats.summary(raw.values("expert_overlap"), raw.seed) | {"null": by_chance(raw, "expert_overlap")}


def entropy(raw):
    def number(values, shares):
        return stats.effective_number(np.tensordot(shares, values, axes=1))

    counts = raw.values("expert_counts")
    return {"axes": [axis("call", raw.calls)]} | stats.summary(counts, raw.seed, statistic=number) | {"chance": counts.shape[2]}


def pooled_entropy(raw):
    counts = stats.pooled_counts(raw.values("expert_counts"), raw.blocks)
    found = stats.summary(counts, raw.seed, statistic=lambda values, shares: stats.effective_number(np.tensordot(shares, values, axes=1)))
    return {"axes": []} | found | {"chance": counts.shape[1]}


def depth_attention(raw):
    values = raw.values("depth_attention_weights")
    states = raw.answer["depth_attention"] == "separate"
    sources = ["embedding", *raw.calls][:values.shape[2]] if states else raw.calls[:values.shape[2]]
    return {"axes": [axis("call", raw.calls), axis("source", sources)]} | stats.summary(values, raw.seed)


SIGNATURES = {
    "future_effect": Signature(
        "Effect on later calls and tokens", "How much a later call's contribution changes at later tokens if a call is skipped at earlier ones, relative to its size; "
        "higher: later calls build on it.", "relative change", "future", "future_effect", lambda raw: effect(raw, "future_effect")),
    "local_effect": Signature(
        "Direct effect on later calls", "The same if later calls read their true input less the skipped call's contribution, so that nothing in between changes; higher: a call "
        "reads that contribution directly.", "relative change", "local", "local_effect", lambda raw: effect(raw, "local_effect")),
    "output_effect": Signature(
        "Effect on the next token", "How much the next token's probabilities change at later tokens if a call is skipped at earlier ones; higher: the answer depends on it.",
        "distance of probabilities", "future", "output_effect", by_call("output_effect")),
    "depth_score": Signature(
        "Depth score", "The mean call, each weighted by its effect on the next token, counted from 0; higher: later calls matter more.", "call", "future", "output_effect", depth_score),
    "lens_overlap": Signature(
        "Logit lens: top 5 in common", "The share of the model's five most likely tokens that are also the five most likely if it stopped behind a call; 1: it has settled.",
        "share", "lens", "lens_overlap", by_call("lens_overlap")),
    "lens_kl": Signature("Logit lens: divergence", "KL of what the model would say behind a call from what it says in the end; 0: it has settled.", "nats", "lens", "lens_kl", by_call("lens_kl")),
    "early_exit_accuracy": Signature(
        "Early exit, by the logit lens", "How often the most likely token behind a call is the one that follows; higher is better.", "accuracy", "lens", "early_exit_accuracy",
        early_exit("early_exit_accuracy")),
    "tuned_lens_overlap": Signature(
        "Tuned lens: top 5 in common", "As with the logit lens, behind a linear map of each call that is trained to say what the model says.", "share", "tuned_lens", "tuned_lens_overlap",
        by_call("tuned_lens_overlap")),
    "tuned_lens_kl": Signature("Tuned lens: divergence", "KL of what the tuned lens says behind a call from what the model says; 0: it has settled.", "nats", "tuned_lens", "tuned_lens_kl",
                               by_call("tuned_lens_kl")),
    "tuned_early_exit_accuracy": Signature(
        "Early exit, by the tuned lens", "How often the tuned lens's most likely token behind a call is the one that follows; higher is better.", "accuracy", "tuned_lens",
        "tuned_early_exit_accuracy", early_exit("tuned_early_exit_accuracy")),
    "norms": Signature("Size of contributions", "What a call, or one of its mixers, adds to the residual stream, relative to what it reads; higher: it changes more.", "ratio of norms",
                       "norms", "norms", by_call("norms", weighted=True)),
    "cosines": Signature("Direction of contributions", "Cosine between what a call, or one of its mixers, adds and what it reads; above 0: it makes the stream longer, below: shorter.", "cosine",
                         "norms", "cosines", by_call("cosines", weighted=True)),
    "residual_norm": Signature("Size of the residual stream", "Its norm behind the embedding and behind each call.", "norm", "norms", "residual_norm", residual),
    "period_power": Signature(
        "Period of the attention's contributions", "The share of the Fourier power of the contributions' sizes along the calls that lies at a period; above the null: the sizes repeat "
        "with it.", "share of power", "norms", "norms", period_power),
    "skip": Signature("Calls left out", "How much the loss on the prompts rises if so many calls from a start on are left out.", "nats per token", "skip", "skip", edit("skip")),
    "swap": Signature("Calls swapped", "How much the loss on the prompts rises if so many calls change places with as many behind them.", "nats per token", "swap", "swap", edit("swap")),
    "reverse": Signature("Calls reversed", "How much the loss on the prompts rises if so many calls run backwards.", "nats per token", "reverse", "reverse", edit("reverse")),
    "weight_similarity": Signature("Likeness of blocks", "Cosine between the weights of two blocks; 1: equal, about 0: unrelated.", "cosine", "weights", "weight_products", similarity),
    "weight_similarity_groups": Signature(
        "Likeness of groups of blocks", "Cosine between the weights of two groups of as many blocks as the model grew by, or loops.", "cosine", "weights", "weight_products", group_similarity),
    "expert_diversity": Signature(
        "Diversity of experts", "Different experts that a token meets, of as many as it could meet; 1: never the same twice.", "share", "experts", "expert_diversity", diversity),
    "expert_entropy": Signature("Experts in use, by call", "The exponential of the entropy of a call's choices: so many experts are in use.", "experts", "experts", "expert_counts", entropy),
    "expert_entropy_pooled": Signature("Experts in use", "The same over the choices of all calls.", "experts", "experts", "expert_counts", pooled_entropy),
    "expert_overlap": Signature(
        "Experts in common", "Jaccard overlap of the experts that a token chooses in two calls of one block; 1: the same ones.", "share", "experts", "expert_overlap", overlap),
    "depth_attention_weights": Signature(
        "Where depth attention looks", "The mean weight that a call's depth attention gives to each entry of the token's own past.", "weight", "depth_attention", "depth_attention_weights",
        depth_attention),
}


def measures(names):
    """The program's words for what the signatures need, in its order."""
    return list(dict.fromkeys(SIGNATURES[name].measure for name in names))


def made(raw, names):
    """(signatures, left_out) of a model."""
    found, left_out = {}, {}
    for name in names:
        signature = SIGNATURES[name]
        try:
            if not raw.has(signature.source):
                raise LeftOut(raw.answer["left_out"][signature.measure])
            found[name] = {"title": signature.title, "what": signature.what, "unit": signature.unit} | signature.make(raw)
        except LeftOut as why:
            left_out[name] = str(why)
    return found, left_out

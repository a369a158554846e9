"""Baselines that cost what another member costs: `same: flops of MEMBER` asks `meristem plan` what both count and finds the value of one key (`by`) at which
they agree. For experts `by` names one of the baselines of `plan --match` instead."""

import json
import os
import subprocess
import tempfile

from command import UserError
from study.study_file import value_of

BASELINES = ("layered_moe", "recurrent_without_depth_attention", "layered_dense")
WITHIN = 0.01
_FIRST, _LARGEST = 64, 1 << 40  # where a search begins and gives up


def words_of(settings):
    """Settings of a config as words of a command line. JSON is YAML that holds no surprise."""
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]


def plan(config, settings, *options):
    """What `meristem plan --json` says of a config; None where it refuses the settings, and why."""
    command = [os.environ["MERISTEM_BINARY"], "plan", str(config), *words_of(settings), "--json", *options]
    with tempfile.TemporaryFile("w+") as errors:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        errors.seek(0)
        said = errors.read().strip().rpartition("meristem: error: ")[2]
    return (json.loads(done.stdout), "") if done.returncode == 0 else (None, said or f"plan ended with {done.returncode}")


class Counts:
    """Of one config: what its members cost, each asked for once."""

    def __init__(self, study, say=None):
        self.study, self.say, self.known = study, say or plan, {}

    def of(self, member, settings, *options):
        """(counts, why there are none)"""
        key = (member.name, json.dumps(settings, sort_keys=True), options)
        if key not in self.known:
            self.known[key] = self.say(member.base, settings, *options)
        return self.known[key]

    def required(self, member, settings, *options):
        found, why = self.of(member, settings, *options)
        if found is None:
            raise UserError(f"{self.study.file}: members.{member.name}: {why}")
        return found


def quantity(counts, name):
    """FLOPs are those of the whole run, so that a shorter run counts less."""
    return float({"flops": lambda: counts["flops_total"], "parameters": lambda: counts["parameters"]["total"], "kv": lambda: counts["kv_bytes_per_token"]}[name]())


def differences(study, same, counts, wanted):
    """{quantity: share by which a member is off}."""
    return {name: quantity(counts, name) / quantity(wanted, name) - 1 for name in same.quantities}


def matched_settings(study, counts=None):
    """{member: {key: value}}: for each member with `same` what makes it match; refused, before any work, where nothing does."""
    counts, found = counts or Counts(study), {}

    def settle(member):
        if member.name in found or member.same is None:
            return {**member.settings, **found.get(member.name, {})}
        model = study.members[member.same.member]
        wanted = counts.required(model, settle(model))
        found[member.name] = _of_baseline(counts, member, model, settle(model)) if member.by in BASELINES else _by_key(counts, member, wanted)
        settings = {**member.settings, **found[member.name]}
        off = differences(study, member.same, counts.required(member, settings), wanted)
        for name, share in off.items():
            if abs(share) > WITHIN:
                raise UserError(f"{study.file}: members.{member.name}.same: {name} of {model.name}: found {share:+.2%} with {_said(found[member.name])}; "
                                f"allowed: within {WITHIN:.0%}")
        return settings

    for member in study.members.values():
        settle(member)
    return found


def _said(settings):
    return ", ".join(words_of(settings)) or "its own settings (`by` names a key to be found)"


def _of_baseline(counts, member, model, settings):
    """The settings of a baseline of `plan --match` for the member's model."""
    said = counts.required(model, settings, "--match")["match"]
    baseline = next((each for each in said if each["name"] == member.by), None)
    if baseline is None:
        raise UserError(f"{counts.study.file}: members.{member.name}.by: found {member.by}; allowed here: {', '.join(each['name'] for each in said)}")
    pairs = (word.partition("=") for word in baseline["config"])
    return {key: value_of(text) for key, _, text in pairs}


def _by_key(counts, member, wanted):
    """The whole number for the key `by` at which the first quantity is nearest. Costs rise with it; values that the config refuses count as too small."""
    if member.by is None:
        return {}
    name, target = member.same.quantities[0], quantity(wanted, member.same.quantities[0])

    def cost(value):
        said, why = counts.of(member, {**member.settings, member.by: value})
        return (quantity(said, name) if said else None), why

    low, high = 1, _FIRST
    while (found := cost(high))[0] is None or found[0] < target:
        low, high = high, 2 * high
        if high > _LARGEST:
            raise UserError(f"{counts.study.file}: members.{member.name}.by: {member.by}: no value reaches the {name} of {member.same.member}"
                            + (f" ({found[1]})" if found[1] else ""))
    while high - low > 1:  # by a straight line between both ends: costs are nearly linear in what is searched, and each question takes a moment
        ends = [cost(value)[0] for value in (low, high)]
        if ends[0] == ends[1]:
            break  # the key changes nothing
        share = (target - ends[0]) / (ends[1] - ends[0]) if None not in ends else 0.5
        middle = min(high - 1, max(low + 1, low + int(share * (high - low))))
        found = cost(middle)[0]
        low, high = (middle, high) if found is None or found < target else (low, middle)
    return {member.by: min((value for value in (low, high) if cost(value)[0] is not None), key=lambda value: abs(cost(value)[0] - target))}

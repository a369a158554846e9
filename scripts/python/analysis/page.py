"""The page of `meristem analyze`: the signatures of an analysis.json, several models side by side. Matrices become heatmaps of one scale, vectors lines,
numbers bars; what was left out is told with its reason."""

import datetime
import math

from reports import charts
from reports.page import Cell, Page, number_text

ORDER = ("depth_score", "future_effect", "local_effect", "output_effect", "lens_overlap", "lens_kl", "tuned_lens_overlap", "tuned_lens_kl", "early_exit_accuracy",
         "tuned_early_exit_accuracy", "norms", "cosines", "residual_norm", "period_power", "skip", "swap", "reverse", "weight_similarity", "weight_similarity_groups", "expert_diversity", "expert_entropy",
         "expert_entropy_pooled", "expert_overlap", "depth_attention_weights")
MIXERS = {"attention": "attention", "depth_attention": "depth attention", "feed_forward": "feed-forward"}
SPREAD = 30
FAR = 2  # a colour scale ends at the 98th percentile where the greatest value is so many times as large


def names_of(models):
    """The signatures that any model has, in a reader's order; those that this page does not know come last."""
    found = list(dict.fromkeys(name for model in models for name in model["signatures"]))
    return sorted(found, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


def parts_of(models, name):
    """[(part of the block, [(model, its values)])]: the whole first, then sub-layers apart; a part that no model has is not there."""
    parts = {}
    for model in models:
        signature = model["signatures"].get(name)
        if not signature:
            continue
        if any(charts.finite(value) for value in flat(signature.get("values"))):
            parts.setdefault("", []).append((model, signature))
        for variant, values in (signature.get("variants") or {}).items():
            if any(charts.finite(value) for value in flat(values.get("values"))):
                shared = {key: signature.get(key) for key in ("axes", "unit")}  # an interval or a null of the whole is not that of a part
                parts.setdefault(variant, []).append((model, {**shared, "own_what": values.get("what", ""), **values}))
    order = ["", *MIXERS]
    return sorted(parts.items(), key=lambda part: order.index(part[0]) if part[0] in order else len(order))


def part_name(part, parts):
    """The whole is a block where parts are its mixers, else (parts are tasks) it is told by what it is in."""
    if part:
        return MIXERS.get(part, part)
    if len(parts) == 1:
        return ""
    names = {name for name, _ in parts}
    if names & set(MIXERS):  # the attention itself, where it is what the others stand beside
        return "whole block" if "attention" in names else "attention"
    return parts[0][1][0][1].get("unit", "")


def flat(values):
    return [item for value in values for item in flat(value)] if isinstance(values, list) else [values]


def null_of(signature):
    """(name, what chance or a null gives), None where nothing of it is known: a number, or {values, low, high}."""
    for name in ("chance", "null"):
        if signature.get(name) is not None:
            return name, signature[name] if isinstance(signature[name], dict) else {"values": signature[name]}
    return "", None


def interval_text(low, high):
    return f"[{low:.3g}, {high:.3g}]" if charts.finite(low) and charts.finite(high) else ""


def about(models, name):
    """What is measured, and how many things are behind a value."""
    known = [model["signatures"][name] for model in models if name in model["signatures"]]
    counts = sorted({part["n"] for signature in known for part in (signature, *(signature.get("variants") or {}).values()) if isinstance(part.get("n"), int)})
    told = f" n = {counts[0]:,}" + (f" to {counts[-1]:,}" if len(counts) > 1 else "") + "." if counts else ""
    bands = any(part.get("low") is not None for signature in known for part in (signature, *(signature.get("variants") or {}).values()))
    unit = f" In: {known[0]['unit']}." if known[0].get("unit") else ""
    return f"{known[0].get('what', '')}{unit}{told}{' Intervals: 95 %, bootstrap.' if bands else ''}".strip()


def bars_of(model, ones):
    """A model's bar for each of some parts that are one number; None where it has no such part."""
    pick = lambda key: [one and one.get(key) for one in ones]  # noqa: E731
    return charts.Bars(model["name"], pick("values"), pick("low"), pick("high"), pick("n"))


def add_numbers(page, title, parts):
    """Parts of one measure: a row for each, in it a bar for each model. One that stands alone has what a null gives beside it."""
    if len(parts) > 1:
        models = list({model["name"]: model for _, found in parts for model, _ in found}.values())
        own = [{model["name"]: one for model, one in found} for _, found in parts]
        figure = charts.bars([part_name(part, parts) for part, _ in parts], [bars_of(model, [ones.get(model["name"]) for ones in own]) for model in models], parts[0][1][0][1].get("unit", ""))
        page.figure(figure, wide=True, about=title)
        return
    _, found = parts[0]
    figure = charts.bars([title], [bars_of(model, [one]) for model, one in found], found[0][1].get("unit", ""))
    nulls = [null_of(one) for _, one in found]
    values = {null["values"] for _, null in nulls if null}
    if len(values) == 1 and all(null for _, null in nulls):
        figure = charts.level(figure, values.pop(), nulls[0][0])
    else:
        figure = charts.ticks_across(figure, [(i, null["values"], name) for i, (name, null) in enumerate(nulls) if null])
    page.figure(figure, wide=True, about=title)


def call_names(model, axis):
    """The labels of an axis of calls, with the block that each calls where a plan calls blocks again; else as they are."""
    labels, calls = [str(label) for label in axis["labels"]], model.get("calls") or []
    of_calls = ("call" in axis["name"] or axis["name"] == "start") and all(label.isdigit() and int(label) < len(calls) for label in labels)
    return [f"{label} (block {calls[int(label)]})" for label in labels] if of_calls and len(set(calls)) < len(calls) else labels


def places(found):
    """Where the values of vectors stand: numbers if all labels are, else names; (name of the axis, {label: place}, names or None)."""
    labels = list(dict.fromkeys(str(label) for _, one in found for label in one["axes"][0]["labels"]))
    try:
        numbers = {label: float(label) for label in labels}
        if all(map(math.isfinite, numbers.values())):
            return {label: int(number) if number.is_integer() else number for label, number in numbers.items()}, None
    except ValueError:
        pass
    return {label: i for i, label in enumerate(labels)}, labels


def add_vectors(page, title, label, found, across):
    """A line for each model; a dotted one for what a null gives it."""
    at, names = places(found)
    lines, levels = [], {}
    for model, one in found:
        x = [at[str(label)] for label in one["axes"][0]["labels"]]
        axis = one["axes"][0]
        blocks = [f"call {name}" for name in call_names(model, axis)] if call_names(model, axis) != [str(label) for label in axis["labels"]] else None
        lines.append(charts.Line(model["name"], x, one["values"], one.get("low"), one.get("high"), points=len(x) <= 24, n=one.get("n"), told=blocks))
        kind, null = null_of(one)
        if null and isinstance(null["values"], list):  # a null that only says how far it reaches has a band from its mean to there
            low, high = null.get("low") or (null["values"] if null.get("high") else None), null.get("high")
            lines.append(charts.Line(model["name"], x, null["values"], low, high, name=f"{model['name']}, {kind}", dash="dot"))
        elif null and charts.finite(null["values"]):
            levels.setdefault(null["values"], kind)
    figure = charts.lines(lines, found[0][1]["axes"][0]["name"], found[0][1].get("unit", ""), y_log=spread(lines), categories=names)
    for value, kind in levels.items():
        figure = charts.level(figure, value, kind)
    said = ["Dotted: the null."] if any(line.dash == "dot" for line in lines) else []
    page.figure(figure, " ".join([own_words(found), *said]).strip(), title=label, across=min(across, 3), about=title)


def spread(lines):
    """Whether a logarithmic axis is needed to see most of the values: all are positive, and one is far above the rest."""
    values = sorted(value for line in lines for value in line.y if charts.finite(value))
    return bool(values) and values[0] > 0 and values[-1] > SPREAD * values[len(values) // 2]


def own_words(found):
    """What a part measures, where it is something else than the whole."""
    what = found[0][1].get("own_what", "")
    return f"{what[0].upper()}{what[1:]}{'' if what.endswith('.') else '.'}" if what else ""


def scale_of(found):
    """((least, greatest) of all models, whether they lie on both sides of zero, what to say where the scale ends before the values do)."""
    values = sorted(value for _, one in found for value in flat(one["values"]) if charts.finite(value))
    sizes = sorted(map(abs, values))
    end = sizes[int(0.98 * (len(sizes) - 1))]
    if end > 0 and sizes[-1] > FAR * end:
        beyond = sum(size > end for size in sizes)
        return (max(min(0, values[0]), -end), min(values[-1], end)), values[0] < 0, f"Colours end at {end:.3g}; {beyond} of {len(values)} values are beyond."
    return (min(0, values[0]), values[-1]), values[0] < 0, ""


def add_matrices(page, title, label, found, alone):
    """A heatmap for each model and, below, for what its null gives, all in one scale. `alone`: of how many parts, if there is one model, whose parts then stand
    beside each other."""
    nulls = [(model, {**one, "values": null["values"], "low": null.get("low"), "high": null.get("high"), "n": None}) for model, one in found
             for _, null in [null_of(one)] if null and isinstance(null["values"], list)]
    z_range, diverging, said = scale_of(found + nulls)
    for label, part in ((label, found), ("the null" if not label else f"{label}: the null", nulls)):
        if label and part and not alone:
            page.subtitle(label, own_words(part))
        for model, one in part:
            rows, columns = one["axes"]
            figure = charts.heatmap(one["values"], columns["labels"], rows["labels"], columns["name"], rows["name"], z_range, diverging, one.get("low"), one.get("high"), one.get("n"),
                                    names=[call_names(model, axis) for axis in (columns, rows)], model=model["name"])
            caption, name, across = (" ".join(filter(None, [own_words(part), said])), label, min(alone, 4)) if alone else (said, model["name"], min(len(page.models), 4))
            page.figure(figure, caption, title=name, across=across, model=model["name"], about=title)


def add_signature(page, models, name):
    parts = parts_of(models, name)
    title = next(model["signatures"][name].get("title", name) for model in models if name in model["signatures"])
    page.section(title, about(models, name))
    if not parts:
        page.text("No model has a finite value of it.")
    numbers = [(part, found) for part, found in parts if not found[0][1].get("axes")]
    if numbers:
        add_numbers(page, title, numbers)
    for part, found in parts:
        label = part_name(part, parts)
        axes = len(found[0][1].get("axes") or [])
        if axes == 2:
            add_matrices(page, title, label, found, len(parts) if len(models) == 1 else 0)
        elif axes == 1:
            add_vectors(page, title, label, found, len(parts))


def headline(models):
    """Rows of the first table: what the models are, every signature that is one number, the power at the period of growth or loop."""
    rows = [["plan", *(Cell(model.get("plan"), code=True) for model in models)]]
    if any(model.get("trained_plan") not in (None, model.get("plan")) for model in models):
        rows.append(["plan in training", *(Cell(model.get("trained_plan"), code=True) for model in models)])
    rows.append(["blocks, calls", *(f"{model.get('blocks', '?')}, {len(model.get('calls') or [])}" for model in models)])
    rows.append(["parameters", *(model.get("parameters") for model in models)])
    rows.append(["prompts, tokens", *(f"{prompts.get('texts', '?')}, {number_text(prompts.get('tokens'))}" for prompts in (model.get("prompts") or {} for model in models))])
    for name in names_of(models):
        own = [model["signatures"].get(name) for model in models]
        first = next(one for one in own if one)
        if not first.get("axes"):
            rows.append([first.get("title", name), *(number_cell(one) for one in own)])
        elif name == "period_power" and any(model.get("period") for model in models):
            rows.append([f"{first.get('title', name)} at the period of growth or loop", *(period_cell(model, one) for model, one in zip(models, own))])
    return rows


def number_cell(one):
    if one is None:
        return Cell(None)
    kind, null = null_of(one)
    against = f"{kind} {number_text(null['values'])}" if null and not isinstance(null["values"], list) else ""
    return Cell(one.get("values"), " ".join(filter(None, [interval_text(one.get("low"), one.get("high")), against])))


def period_cell(model, one):
    labels = [str(label) for label in one["axes"][0]["labels"]] if one else []
    if str(model.get("period")) not in labels:
        return Cell(None)
    at = labels.index(str(model["period"]))
    said = [f"period {model['period']}"]
    if one.get("low") and one.get("high"):
        said.append(interval_text(one["low"][at], one["high"][at]))
    kind, null = null_of(one)
    if null:
        value, low, high, p = (values[at] if isinstance(values := null.get(key), list) else values for key in ("values", "low", "high", "p"))
        reach = interval_text(low, high) or (f"up to {high:.3g}" if charts.finite(high) else "")
        said.append(" ".join(filter(None, [kind, number_text(value), reach, f"(p = {p:.2g})" if charts.finite(p) else ""])))
    return Cell(one["values"][at], ", ".join(filter(None, said)))


def left_out_rows(models):
    """[(signature, models, why)], models with the same reason together."""
    titles = {name: signature.get("title", name) for model in models for name, signature in model["signatures"].items()}
    reasons = {}
    for model in models:
        for name, why in (model.get("left_out") or {}).items():
            reasons.setdefault((name, why), []).append(model["name"])
    order = names_of(models)
    rows = [[titles.get(name, name.replace("_", " ")), ", ".join(names), why] for (name, why), names in reasons.items()]
    return rows if not order else sorted(rows, key=lambda row: row[0])


def page_of(document):
    models = document["models"]
    names = [model["name"] for model in models]
    title = f"Signatures of {names[0]}" if len(names) == 1 else f"Signatures of {len(names)} models: " + ", ".join(names)
    page = Page(title, f"meristem analyze, written on {datetime.date.today().isoformat()}. A call of a block counts as a layer. Hover over a value, or tap it, for its number.", names)
    page.section("Headline numbers", "In brackets: 95 % intervals, bootstrap over prompts.")
    page.table(["", *(Cell(name, model=name) for name in names)], headline(models))
    for name in names_of(models):
        add_signature(page, models, name)
    rows = left_out_rows(models)
    page.section("What was left out")
    if rows:
        page.table(["signature", "models", "why"], rows)
    page.section("Where it comes from")
    page.table(["model", "checkpoint", "prompts", "hash of the prompts"],
               [[Cell(model["name"], model=model["name"]), model.get("checkpoint"), *((model.get("prompts") or {}).get(key) for key in ("file", "hash"))] for model in models])
    return page


def write(document, path):
    """The page of an analysis.json, as it was read."""
    page_of(document).write(path)

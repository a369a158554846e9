"""What a sweep says in the end: means with 95 % bootstrap intervals over items, and over seeds where a model has several; the table as CSV and JSON."""

import csv
import io
import json

import numpy as np

from bootstrap import interval
from command import publish


def accuracy(scores, seed, baseline=None):
    """Of one setting: `scores` of each seed (Cells.scores), and of the setting that it is compared with, item by item."""
    hits = np.stack([own["hits"] for own in scores])
    low, high = interval(hits, seed)
    row = {"items": hits.shape[1], "seeds": hits.shape[0], "accuracy": float(hits.mean()), "low": low, "high": high,
           "gold_log_probability": float(np.mean([own["margins"].mean() for own in scores]))}
    if baseline is not None:
        difference = hits - np.stack([own["hits"] for own in baseline])
        low, high = interval(difference, seed)
        row |= {"difference": float(difference.mean()), "difference_low": low, "difference_high": high}
    return row


def write_table(out, settings, rows):
    """table.csv and table.json of rows with the same keys. Numbers are written so that they read back equal to the bit."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows(["" if value is None else value for value in row.values()] for row in rows)
    document = json.dumps({"format": 1, **settings, "rows": rows}, indent=1) + "\n"
    for name, content in (("table.csv", text.getvalue()), ("table.json", document)):
        publish(out / name, lambda beside, content=content: beside.write_text(content))


def aligned(header, rows):
    """Lines of a table in a terminal: words to the left, everything else to the right."""
    texts = [list(map(str, header)), *[list(map(str, row)) for row in rows]]
    widths = [max(len(row[i]) for row in texts) for i in range(len(header))]
    left = [all(isinstance(row[i], str) and not row[i][:1].isdigit() for row in rows) for i in range(len(header))]
    return ["  ".join(text.ljust(width) if to_left else text.rjust(width) for text, width, to_left in zip(row, widths, left)).rstrip() for row in texts]


def percent(row):
    return f"{row['accuracy']:.1%} [{row['low']:.1%}, {row['high']:.1%}]"

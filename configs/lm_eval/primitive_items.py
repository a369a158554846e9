"""The reasoning primitives as data of lm-evaluation-harness: the items of `meristem eval`, five solved examples before each."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts" / "python"))


def dataset(primitive, items=1000, shots=5, seed=42, **_):
    import datasets
    from evaluation import primitives

    drawn = (primitives.with_shots(primitive, f"eval/{seed}", index, shots, items) for index in range(items))
    return {"test": datasets.Dataset.from_list([{"context": item.context, "choices": list(item.choices), "gold": item.gold} for item in drawn])}

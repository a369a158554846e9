"""A depth plan in Python: its text "0-3, (4-7)x2, 8-11" read, its calls repeated, and text made of calls. The program's own is src/depth/plan.h, which says what a text may be;
here only texts that it has written are read."""

import re
from dataclasses import dataclass

MOST_CALLS = 1 << 16  # as DepthPlan::kMaxCalls


@dataclass(frozen=True)
class Plan:
    calls: tuple         # the block of each call, in order
    loop: tuple = None   # (start, size, repeats) in calls, where the text has exactly one group

    @property
    def text(self):
        return text_of(self.calls)

    def loop_text(self):
        """With its loop as the text's one group, which a model that injects into its loop needs."""
        start, size, repeats = self.loop
        parts = [ranges(self.calls[:start]), f"({ranges(self.calls[start:start + size])})x{repeats}", ranges(self.calls[start + size * repeats:])]
        return ", ".join(part for part in parts if part)

    def repeated(self, start, size, times):
        """The calls [start, start + size) `times` times in place of once. The loop grows along where they are one of its rounds, else it is forgotten."""
        assert 0 <= start and 1 <= size and start + size <= len(self.calls) and times >= 1
        calls = self.calls[:start] + self.calls[start:start + size] * times + self.calls[start + size:]
        if times == 1:
            return self
        return Plan(calls, (self.loop[0], size, self.loop[2] + times - 1) if self.is_round(start, size) else None)

    def is_round(self, start, size):
        """Whether these calls are one round of the loop."""
        if self.loop is None:
            return False
        begin, length, repeats = self.loop
        return size == length and (start - begin) % length == 0 and begin <= start < begin + length * repeats


def plan_of(text):
    """ValueError where it is no plan."""
    rest, groups = re.findall(r"\d+|[-,()x]|\S", text.replace(";", ",")), []

    def take(token):
        found = bool(rest) and rest[0] == token
        if found:
            rest.pop(0)
        return found

    def number():
        if not rest or not rest[0].isdigit():
            raise ValueError(f"depth plan {text!r}: found {rest[0] if rest else 'its end'!r}, expected a number")
        return int(rest.pop(0))

    def sequence(begin):
        calls = item(begin)
        while take(","):
            calls += item(begin + len(calls))
        return calls

    def item(begin):
        if take("("):
            body = sequence(begin)
            if not (take(")") and take("x")):
                raise ValueError(f"depth plan {text!r}: expected )x and a number")
            groups.append((begin, len(body), times := number()))
            if len(body) * times > MOST_CALLS:
                raise ValueError(f"depth plan {text!r}: more than {MOST_CALLS:,} calls")
            return body * times
        first = number()
        last = number() if take("-") else first
        return list(range(first, last + 1)) if first <= last else list(range(first, last - 1, -1))

    calls = sequence(0)
    if rest:
        raise ValueError(f"depth plan {text!r}: found {rest[0]!r}")
    return Plan(tuple(calls), groups[0] if len(groups) == 1 else None)


def ranges(calls):
    """Calls that count up are joined: "0-3, 2-5"."""
    runs = []
    for block in calls:
        if runs and block == runs[-1][1] + 1:
            runs[-1][1] = block
        else:
            runs.append([block, block])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def text_of(calls):
    """With what repeats as groups, the one over the most calls first. Longer plans than people read are ranges alone."""
    best = longest_loop(calls) if len(calls) <= 200 else None
    if best is None:
        return ranges(calls)
    start, size, times = best
    parts = [text_of(calls[:start]), f"({text_of(calls[start:start + size])})x{times}", text_of(calls[start + size * times:])]
    return ", ".join(part for part in parts if part)


def longest_loop(calls):
    """(start, size, repeats) of what repeats itself over the most calls, None where nothing does. A loop that is written as a group but runs once is none."""
    best = None
    for size in range(1, len(calls) // 2 + 1):
        for start in range(len(calls) - 2 * size + 1):
            body, times = calls[start:start + size], 1
            while calls[start + size * times:start + size * (times + 1)] == body:
                times += 1
            if times > 1 and (best is None or size * times > best[1] * best[2]):
                best = start, size, times
    return best

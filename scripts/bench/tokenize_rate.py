"""How fast is `data tokenize`, against `tokenizers` alone on the same cores, and how much memory does it take?

Both read the same JSON lines and alternate for some rounds. "Alone": the texts lie in memory, `encode_batch_fast` spreads batches over all
cores, nothing is written; loading is not counted. `data tokenize`: the whole command from start to exit. Prints a JSON object."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT_COMMANDS = ROOT / "scripts" / "python"
ALONE = """
import json, sys, time
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file(sys.argv[2])
tokenizer.encode_special_tokens = True
texts = [json.loads(line)["text"] for line in open(sys.argv[1], encoding="utf-8")]
begin = time.monotonic()
for at in range(0, len(texts), 1024):
    tokenizer.encode_batch_fast(texts[at : at + 1024], add_special_tokens=False)
print(time.monotonic() - begin)
"""


def write_lines(sources, path, megabytes):
    """Passages of about 2,000 characters, repeated with their number in front until the file is long enough; returns bytes of text."""
    passages = []
    for source in sources:
        text = source.read_text(encoding="utf-8")
        passages += [text[at : at + 2000] for at in range(0, len(text), 2000)]
    written = number = 0
    with open(path, "w", encoding="utf-8") as file:
        while written < megabytes * 1_000_000:
            text = f"{number} {passages[number % len(passages)]}"
            file.write(json.dumps({"text": text}) + "\n")
            written += len(text.encode())
            number += 1
    return written


def family_rss(pid):
    """Resident bytes of a process and its children, shared pages counted once for each."""
    total = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if int(entry.name) == pid or parent == pid:
                total += int((entry / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError, IndexError):
            continue
    return total


def tokenize(lines, tokenizer, out, workers):
    """(seconds, peak of resident bytes)."""
    command = [sys.executable, TEXT_COMMANDS, "data", "tokenize", lines, "--tokenizer", tokenizer, "--out", out, "--force"]
    begin = time.monotonic()
    child = subprocess.Popen([*map(str, command), *(["--workers", str(workers)] if workers else [])], stdout=subprocess.DEVNULL)
    peak, done = 0, threading.Event()

    def watch():
        nonlocal peak
        while not done.wait(0.05):
            peak = max(peak, family_rss(child.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = child.wait()
    seconds = time.monotonic() - begin
    done.set()
    watcher.join()
    if code != 0:
        raise SystemExit(f"data tokenize ended with exit code {code}")
    return seconds, peak


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, help="a folder of .txt files")
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--skip-alone", action="store_true", help="memory only")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        train = [sys.executable, TEXT_COMMANDS, "data", "train-tokenizer", arguments.texts, "--vocab", arguments.vocab, "--out", scratch]
        subprocess.run([*map(str, train)], check=True, stdout=subprocess.DEVNULL)
        tokenizer, lines = scratch / "tokenizer.json", scratch / "lines.jsonl"
        size = write_lines(sorted(arguments.texts.rglob("*.txt")), lines, arguments.megabytes)
        ours, theirs, peaks = [], [], []
        for _ in range(arguments.rounds):
            seconds, peak = tokenize(lines, tokenizer, scratch / "out", arguments.workers)
            ours.append(size / seconds / 1e6)
            peaks.append(peak)
            if not arguments.skip_alone:
                alone = subprocess.run([sys.executable, "-c", ALONE, lines, tokenizer], check=True, capture_output=True, text=True)
                theirs.append(size / float(alone.stdout) / 1e6)
        report = {"text_bytes": size, "cores": len(os.sched_getaffinity(0)), "ours_megabytes_per_second": ours, "peak_rss_bytes": max(peaks)}
        if theirs:
            report |= {"tokenizers_alone_megabytes_per_second": theirs,
                       "median_ratio": statistics.median(a / b for a, b in zip(ours, theirs))}
        print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()

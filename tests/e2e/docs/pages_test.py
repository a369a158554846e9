"""The commands of the documentation, run as they stand there, page after page, in one folder: what a page needs, it makes or an earlier page made.
A block ```sh is run, unless its first line says why not: ```sh not-run: needs Slurm. With --listed nothing is run: every page is known."""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
# In this order; every other page has no command that can be run, which is checked.
PAGES = ["quickstart", "generation", "data", "growth", "evaluation", "analysis", "huggingface", "sft", "cooldown", "forecast", "cluster"]
BLOCK = re.compile(r"^```sh([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(path):
    """(why it is not run or "", commands) of each."""
    for info, commands in BLOCK.findall(path.read_text()):
        assert not info or info.startswith(" not-run: "), f"{path}: ```sh{info}: expected nothing or not-run: REASON"
        yield info.removeprefix(" not-run: "), commands


def run(page, commands, folder):
    begin = time.monotonic()
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", commands], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    print(f"{page}: exit {done.returncode} after {time.monotonic() - begin:.0f} s", flush=True)
    if done.returncode != 0:
        print(done.stdout[-4000:])
        sys.exit(f"{page}: a command fails:\n{commands}")


def main():
    docs = ROOT / "docs"
    others = [path.name for path in sorted(docs.glob("*.md")) if path.stem not in PAGES and any(not why for why, _ in blocks(path))]
    assert not others, f"pages with commands that are not in PAGES: {', '.join(others)}"
    if sys.argv[1:] == ["--listed"]:
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in ("scripts", "configs"):
            os.symlink(ROOT / name, folder / name)
        run("README's first command", "scripts/meristem quickstart", folder)
        for page in PAGES:
            for why, commands in blocks(docs / f"{page}.md"):
                if not why:
                    run(page, commands, folder)


if __name__ == "__main__":
    main()

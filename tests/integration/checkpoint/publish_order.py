"""From a trace of system calls: every file of a checkpoint is synced before its folder is renamed, the manifest is begun last, and the
folder that holds the new name is synced afterwards. The judge itself is tested on doctored traces and on a run with a planted fault."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

driver = sys.argv[1]
FILES = ["model.safetensors", "optimizer-0.safetensors", "state.json", "manifest.json"]


def record(folder, *fault):
    """The calls, in order, as (name, argument text, result); paths of descriptors are decoded by strace -y."""
    log = folder.parents[1] / "trace.txt"
    command = ["strace", "-f", "-y", "-qq", "-s", "4096", "-o", log, "-e", "trace=openat,fsync,fdatasync,rename,renameat,renameat2,close"]
    # LeakSanitizer cannot work under a tracer.
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run([*command, driver, *fault, "save", folder, "5"], capture_output=True, text=True, env=environment)
    if done.returncode != 0 and "ptrace" in done.stderr.lower():
        print(f"skipped: strace may not trace here: {done.stderr.strip()}")
        sys.exit(4)
    assert done.returncode == 0, done.stderr
    calls = []
    for line in log.read_text().splitlines():
        match = re.match(r"(?:\d+ +)?(\w+)\((.*)\) += (\S+)", line)
        if match:
            calls.append(match.groups())
    return calls


def index_of(calls, what, wanted):
    found = [i for i, call in enumerate(calls) if wanted(*call)]
    assert found, f"{what}: never happened"
    return found


def judge(calls, folder):
    """AssertionError where the order would not survive a kill or a power cut."""
    renames = index_of(calls, "rename to the final name", lambda name, text, _: name.startswith("rename") and text.endswith(f'"{folder}"'))
    assert len(renames) == 1, "renamed to the final name more than once"
    published = renames[0]
    pending = re.search(r'"([^"]+)", "[^"]+"$|"([^"]+)", [^"]*"[^"]+"$', calls[published][1]).group(1)
    assert pending and pending != str(folder), f"renamed from {pending}"

    def synced(path):
        return lambda name, text, result: name in ("fsync", "fdatasync") and text.endswith(f"<{path}>") and result == "0"

    def created(path):
        return lambda name, text, result: name == "openat" and f'"{path}"' in text and "O_CREAT" in text

    sync_at = {}
    for file in FILES:
        begun = index_of(calls, f"{file} created in {pending}", created(f"{pending}/{file}"))
        sync_at[file] = index_of(calls, f"fsync of {file}", synced(f"{pending}/{file}"))[-1]
        assert begun[0] < sync_at[file] < published, f"{file}: created at {begun[0]}, synced at {sync_at[file]}, published at {published}"
    manifest_begun = index_of(calls, "manifest created", created(f"{pending}/manifest.json"))[0]
    for file in FILES[:-1]:
        assert sync_at[file] < manifest_begun, f"manifest.json was begun before {file} was synced"
    entries_synced = index_of(calls, "fsync of the pending folder", synced(pending))[-1]
    assert entries_synced < published, "the folder's own entries were not synced before the rename"
    after = index_of(calls, "fsync of the parent folder", synced(folder.parent))
    assert after[-1] > published, "the parent folder was not synced after the rename"
    late = [c for c in calls[published + 1 :] if c[0] == "openat" and "O_CREAT" in c[1] and str(folder) in c[1]]
    assert not late, f"written after it was published: {late}"


def refused(calls, folder):
    try:
        judge(calls, folder)
    except AssertionError as reason:
        return str(reason)
    return None


def doctored(calls, folder):
    """Traces in which one thing is wrong."""
    published = next(i for i, c in enumerate(calls) if c[0].startswith("rename"))
    syncs = [i for i, c in enumerate(calls) if c[0] == "fsync" and ".tmp-" in c[1]]
    assert len(syncs) == 5, syncs
    for i in syncs:
        yield f"without {calls[i][0]}({calls[i][1]})", calls[:i] + calls[i + 1 :]
        yield f"{calls[i][1]} synced only after the rename", calls[:i] + calls[i + 1 : published + 1] + [calls[i]] + calls[published + 1 :]
        yield f"{calls[i][1]}: sync failed", calls[:i] + [(calls[i][0], calls[i][1], "-1")] + calls[i + 1 :]
    yield "without the rename", calls[:published] + calls[published + 1 :]
    yield "nothing after the rename", calls[: published + 1]
    manifest = next(i for i, c in enumerate(calls) if c[0] == "openat" and "manifest.json" in c[1] and "O_CREAT" in c[1])
    yield "manifest first", [calls[manifest]] + calls[:manifest] + calls[manifest + 1 :]
    yield "written straight to the final name", [(n, re.sub(r"\.tmp-[0-9-]+", "", t), r) for n, t, r in calls]


if shutil.which("strace") is None:
    print("skipped: strace is not installed")
    sys.exit(4)
with tempfile.TemporaryDirectory() as temporary:
    root = Path(temporary).resolve()
    target = root / "checkpoints" / "step-5"
    trace = record(target)
    judge(trace, target)
    print(f"order of {len(trace)} calls: ok")
    for what, wrong in doctored(trace, target):
        reason = refused(wrong, target)
        assert reason, f"the judge accepts a trace that is {what}"
        print(f"refused, {what}: {reason}")
    target = root / "planted" / "step-5"
    reason = refused(record(target, "published-first"), target)
    assert reason, "the judge accepts the planted fault"
    print(f"refused, planted fault: {reason}")

"""The house stays readable: how many files there are, how long they are, and how many a reader opens to follow one thing.

    house_size.py ROOT | --self-test

C++ and CUDA files outside of tests/ count. A file holds a whole subject (CONTRIBUTING.md).
"""
import pathlib
import re
import statistics
import sys
import tempfile

MOST_FILES = 280
MEDIAN = (80, 160)
SHORTEST = 15  # lines, but for files that only instantiate templates
SUFFIXES = {".cpp", ".h", ".cu", ".cuh"}
CODE_LINE = re.compile(r"^\s*(?!//|#include|#pragma|namespace\b|using\b|}|$)(.*)$")

# What a reader opens to follow one thing: the most files it may take, and which they are (docs/architecture.md has the same table).
TRAILS = {
    "one update": (6, ["src/run/training.cpp", "src/step/update.h", "src/step/update.cpp", "src/step/batches.cpp", "src/optim/optimizer.cpp",
                       "src/ops/adamw.cpp"]),
    "from a shard to a batch": (7, ["src/data/shard.cpp", "src/data/rows.cpp", "src/data/mixture.cpp", "src/data/sequence_sampler.cpp",
                                    "src/data/batch.cpp", "src/data/loader.cpp"]),
}
# Trails that are all files of a folder, or all whose name matches.
FOLDERS = {
    "the attention kernel": (8, r"^kernels/attention/"),
    "SwiGLU": (4, r"(^|/)swiglu[^/]*$|^kernels/swiglu/"),
}
# A config key: its field and its description side by side, its rules in a file named validate*, its place in time in timeline.
DESCRIBED = re.compile(r'v\.value\(\s*"([a-z_]+)",\s*c\.([a-z_]+(?:\.[a-z_]+)*)')
MOST_RULE_FILES = 2


def sources(root):
    return {path.relative_to(root).as_posix(): path.read_text() for folder in ("src", "kernels")
            for path in sorted((root / folder).rglob("*")) if path.suffix in SUFFIXES}


def only_instantiates(text):
    code = [match[1] for line in text.splitlines() if (match := CODE_LINE.match(line))]
    return bool(code) and all(line.startswith(("template ", "INSTANTIATE")) for line in code)


def size_faults(files):
    lengths = {name: text.count("\n") for name, text in files.items()}
    if len(files) > MOST_FILES:
        yield f"{len(files)} files; allowed: {MOST_FILES}"
    median = statistics.median(lengths.values())
    if not MEDIAN[0] <= median <= MEDIAN[1]:
        yield f"the median file has {median:g} lines; allowed: {MEDIAN[0]} to {MEDIAN[1]}"
    for name, lines in lengths.items():
        if lines < SHORTEST and not only_instantiates(files[name]):
            yield f"{name}: {lines} lines; a file below {SHORTEST} belongs to another subject"


def trail_faults(files):
    for name, (most, listed) in TRAILS.items():
        if len(listed) > most:
            yield f"{name}: {len(listed)} files; allowed: {most}"
        for file in listed:
            if file not in files:
                yield f"{name}: {file} is not there; list the files that a reader opens"
    for name, (most, pattern) in FOLDERS.items():
        found = [file for file in files if re.search(pattern, file)]
        if not 0 < len(found) <= most:
            yield f"{name}: {len(found)} files ({', '.join(found)}); allowed: 1 to {most}"


def key_faults(files):
    config = {name: text for name, text in files.items() if name.startswith("src/config/")}
    keys = 0
    for name, text in config.items():
        for key, member in DESCRIBED.findall(text):
            keys += 1
            if "." not in member and not re.search(rf"^  [A-Za-z].*\b{member}\b( =|;|,| \{{)", text, re.M):
                yield f"key {key}: described in {name}, but its field {member} stands elsewhere"
    if keys < 60:
        yield f"{keys} keys of the config can be read by this test; it should find all of them"
    rules = [name for name in config if pathlib.PurePosixPath(name).name.startswith("validate") and name.endswith(".cpp")]
    if not 0 < len(rules) <= MOST_RULE_FILES:
        yield f"rules of keys stand in {', '.join(rules)}; allowed: {MOST_RULE_FILES} files"


def faults(root):
    files = sources(root)
    return [*size_faults(files), *trail_faults(files), *key_faults(files)]


def self_test():
    """Each rule finds what breaks it."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        room = root / "src" / "config"
        room.mkdir(parents=True)
        (root / "kernels").mkdir()
        for number in range(MOST_FILES):
            (room / f"subject_{number}.cpp").write_text("int a;\n" * (MEDIAN[1] + 1))
        (room / "tiny.h").write_text('v.value("key", c.key, 1);\n')
        (room / "instances.cpp").write_text('#include "x.h"\ntemplate class X<int>;\n')
        found = faults(root)
    wanted = [f"{MOST_FILES + 2} files", "the median file", "tiny.h: 1 lines", "one update: src/step/update.h is not there", "SwiGLU: 0 files", "key key: described in src/config/tiny.h", "1 keys of", "rules of keys"]
    missed = [text for text in wanted if not any(text in fault for fault in found)]
    if any("instances.cpp" in fault for fault in found):
        missed.append("a file of instantiations may be short")
    print("\n".join(missed) if missed else "every planted fault was found")
    return 1 if missed else 0


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    found = faults(pathlib.Path(sys.argv[1]))
    print("\n".join(found) if found else "the house has the size that it should have")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

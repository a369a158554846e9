"""Every C++ and CUDA file is laid out as clang-format says, in the version that third_party/python.txt pins.

    layout.py ROOT | --self-test
"""
import pathlib
import subprocess
import sys

CLANG_FORMAT = pathlib.Path(sys.executable).parent / "clang-format"
FOLDERS = ("src", "kernels", "tests")
SUFFIXES = {".cpp", ".h", ".cu", ".cuh"}


def differing(root: pathlib.Path) -> list[str]:
    """The first place in each file that clang-format would change, as FILE:LINE:COLUMN."""
    files = sorted(f for folder in FOLDERS for f in (root / folder).rglob("*") if f.suffix in SUFFIXES)
    result = subprocess.run([CLANG_FORMAT, "--dry-run", "-Werror", "--ferror-limit=1", *files], capture_output=True, text=True)
    places = [line.split(": error:")[0] for line in result.stderr.splitlines() if ": error:" in line]
    if result.returncode != 0 and not places:
        raise RuntimeError(result.stderr)
    return places


def check(root: pathlib.Path) -> int:
    places = differing(root)
    for place in places:
        print(f"{place}: run {CLANG_FORMAT.name} -i on this file")
    return 1 if places else 0


def self_test() -> int:
    import shutil
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        shutil.copy(pathlib.Path(__file__).parents[2] / ".clang-format", root)
        (root / "src").mkdir()
        (root / "src/good.cpp").write_text("int f(int x) { return x; }\n")
        good = differing(root)
        (root / "src/bad.cpp").write_text("int  f( int x ){return x;}\n")
        bad = differing(root)
    print(f"good: {good}; planted: {bad}")
    return 0 if not good and len(bad) == 1 and "bad.cpp" in bad[0] else 1


if __name__ == "__main__":
    if not CLANG_FORMAT.exists():
        print(f"{CLANG_FORMAT} is not here; it comes with third_party/python.txt")
        sys.exit(4)
    sys.exit(self_test() if sys.argv[1] == "--self-test" else check(pathlib.Path(sys.argv[1])))

"""Compiles changed copies of a kernel's folders, part by part, and runs them."""
import dataclasses
import hashlib
import json
import pathlib
import shutil
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[3]
WALL_SECONDS = 600  # of one program, far above the CPU time that it grants itself

# What every kernel includes and no mutant changes.
PRECOMPILED = "\n".join(f"#include {name}" for name in
                        ('"device/layer.h"', "<algorithm>", "<cstdint>", "<functional>", "<stdexcept>", "<string>", "<utility>", "<vector>"))


@dataclasses.dataclass
class Verdict:
    kind: str  # what the driver printed; or "sound", "does not compile", "same code", "signal"
    text: str = ""
    part: str = ""
    code: str = ""  # the changed object, by which two mutants are told to be one


class Kernel:
    """mutation.json: folders (in kernels/, of the source that is changed), leave (files left alone), parts (name, sources). A file is named from
    kernels/ on, or from the description's own folder where it is a source of the tests."""

    folder = ROOT / "kernels"

    def __init__(self, description):
        described = json.loads(description.read_text(encoding="utf-8"))
        self.tests, self.folders, self.parts = description.parent, described["folders"], described["parts"]
        paths = [path for name in self.folders for path in sorted((self.folder / name).iterdir()) if path.suffix in (".h", ".cu")]
        named = {str(path.relative_to(self.folder)): path for path in paths}
        self.sources = {name: path.read_text(encoding="utf-8") for name, path in named.items() if name not in described.get("leave", [])}

    def path_of(self, source):
        """As the compiler is given it from within a copy: relative where it may be a changed file."""
        return str(self.folder.relative_to(ROOT) / source) if (self.folder / source).exists() else str(self.tests / source)

    def files_in(self, included):
        """Which of the folder's files are among those that the compiler says it included."""
        prefix = f"{self.folder.relative_to(ROOT)}/"
        return {path[len(prefix):] for path in included.split() if path.startswith(prefix)}


class Workshop:
    def __init__(self, kernel, compiler, linked, scratch):
        self.kernel, self.compiler, self.linked, self.scratch = kernel, compiler, linked, scratch
        # An index beyond a plain array traps; those of the layer's own types are reports.
        clang = "clang" in self.run(scratch, [compiler, "--version"], check=True).stdout
        self.bounds = (["-fsanitize=bounds", "-fsanitize-trap=bounds"] if clang
                       else ["-fsanitize=bounds-strict", "-fsanitize-undefined-trap-on-error"])
        (scratch / "precompiled.h").write_text(PRECOMPILED, encoding="utf-8")
        self.kills = {part["name"]: {} for part in kernel.parts}  # problem -> how often it was the first that failed
        self.objects, self.needs, self.second = {}, {}, {}
        self.run(scratch, [*self.flags(1), "-x", "c++-header", "precompiled.h", "-o", "precompiled.h.gch"], check=True)
        base = self.copy("base", None, None)
        for part in kernel.parts:
            for source in part["sources"]:
                if source not in self.objects:
                    self.objects[source] = self.compile(base, source, 1)
                    if self.objects[source] is None:
                        raise SystemExit(f"{source}: does not compile unchanged")
                    listed = self.run(base, [*self.flags(1), "-MM", "-x", "c++", kernel.path_of(source)], check=True).stdout
                    self.needs[source] = kernel.files_in(listed)
        self.seconds = {}
        for part in kernel.parts:
            said = self.solve(base, part, {}, 600)
            if said[0] != "sound":
                raise SystemExit(f"{part['name']}: the unchanged kernel: {said[0]}")
            self.seconds[part["name"]] = 1 + 6 * float(said[1])  # for one problem of a mutant
            print(f"{part['name']}: sound, slowest problem {said[1]} s{', ' + said[2] if len(said) > 2 else ''}", flush=True)

    def flags(self, level):
        places = ["-Ikernels", f"-I{ROOT}/kernels", f"-I{ROOT}/kernels/include", f"-I{ROOT}/tests"]
        return [self.compiler, "-std=c++20", f"-O{level}", *self.bounds, "-w", *places]

    @staticmethod
    def run(place, command, check=False):
        return subprocess.run(command, cwd=place, capture_output=True, text=True, check=check, timeout=WALL_SECONDS)

    def copy(self, name, file, text):
        place = self.scratch / name
        copied = place / self.kernel.folder.relative_to(ROOT)
        for name in self.kernel.folders:
            shutil.copytree(self.kernel.folder / name, copied / name)
        if file is not None:
            (copied / file).write_text(text, encoding="utf-8")
        return place

    @staticmethod
    def object_of(place, source, level):
        return place / f"{pathlib.Path(source).with_suffix('').as_posix().replace('/', '-')}.{level}.o"

    def compile(self, place, source, level):
        """The object; None where it does not compile. The same source gives the same bytes wherever the copy lies."""
        built = self.object_of(place, source, level)
        header = ["-include", str(self.scratch / "precompiled.h")] if level == 1 else []
        done = self.run(place, [*self.flags(level), *header, "-x", "c++", "-c", self.kernel.path_of(source), "-o", built])
        return built if done.returncode == 0 else None

    def solve(self, place, part, changed, seconds):
        """What the part's program prints. It never calls the kernels of another part, which it is linked without."""
        program = place / "program"
        objects = [changed.get(source, self.objects[source]) for source in part["sources"]]
        given = [*self.linked[:-1], *objects, self.linked[-1], "-o", program]
        self.run(place, [self.compiler, "-no-pie", "-Wl,--unresolved-symbols=ignore-all", *given], check=True)
        kills = self.kills[part["name"]]
        order = [str(number) for number in sorted(kills, key=lambda number: -kills[number])]
        done = self.run(place, [program, part["name"], str(seconds), *order])
        return done.stdout.splitlines() if done.stdout else [f"signal: {-done.returncode}"]

    def verdict(self, name, file, text, seen=()):
        """Tries one changed file. seen: codes that need no second look."""
        place = self.copy(name, file, text)
        try:
            result = Verdict("same code")
            for part in self.kernel.parts:
                changed = {}
                for source in part["sources"]:
                    if file not in self.needs[source]:
                        continue
                    built = self.object_of(place, source, 1)
                    if not built.exists() and self.compile(place, source, 1) is None:
                        return Verdict("does not compile")
                    if built.read_bytes() != self.objects[source].read_bytes():
                        changed[source] = built
                if not changed:
                    continue
                if result.kind == "same code":
                    code = b"".join(changed[source].read_bytes() for source in sorted(changed))
                    result = Verdict("sound", code=part["name"] + hashlib.sha256(code).hexdigest())
                    if result.code in seen:
                        return Verdict("duplicate", code=result.code)
                said = self.solve(place, part, changed, self.seconds[part["name"]])[0]
                if said != "sound":
                    self.note_kill(part["name"], said)
                    return Verdict(said.split(":")[0], said, part["name"], result.code)
            return result
        finally:
            shutil.rmtree(place)

    def note_kill(self, part, said):
        number = said.split(": ")[1] if said.count(": ") > 1 else ""
        if number.isdigit():
            self.kills[part][int(number)] = self.kills[part].get(int(number), 0) + 1

    def same_when_optimised(self, name, file, text, unchanged):
        """Whether a survivor's code equals the unchanged one's at -O2. unchanged: the source with the columns of the changed one."""
        places = self.copy(name + "changed", file, text), self.copy(name + "unchanged", file, unchanged)
        try:
            for source, needed in self.needs.items():
                if file in needed:
                    one, other = (self.compile(place, source, 2) for place in places)
                    if one.read_bytes() != other.read_bytes():
                        return False
            return True
        finally:
            for place in places:
                shutil.rmtree(place)

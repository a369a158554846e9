"""scripts/meristem and scripts/test on a copy of the scripts, with everything they call replaced by stand-ins that write down how they were
called. Nothing is installed, built or fetched here."""

import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def write_program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/bash\n" + text)
    path.chmod(0o755)


class Clone:
    """A clone with scripts and pins alone, a home of its own, and a folder of stand-ins that comes first in PATH."""

    def __init__(self, folder):
        self.root = Path(folder) / "clone"
        self.home = Path(folder) / "meristem home"
        self.stand_ins = Path(folder) / "bin"
        self.calls = Path(folder) / "calls"
        shutil.copytree(ROOT / "scripts", self.root / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "third_party", self.root / "third_party")
        for name in ("src/core", "kernels", "cmake"):
            (self.root / name).mkdir(parents=True)
        (self.root / "src/core/one.cpp").write_text("")
        for name in ("CMakeLists.txt", "CMakePresets.json"):
            (self.root / name).write_text("")
        self.calls.write_text("")
        # Every package is there, unless a test writes names into `absent`.
        self.absent = Path(folder) / "absent"
        self.absent.write_text("")
        write_program(self.stand_ins / "dpkg-query", f'''shift 2
for name in "$@"; do grep -qx -- "$name" "{self.absent}" || echo "$name installed"; done''')
        write_program(self.stand_ins / "apt-get", f'echo "apt-get $*" >>"{self.calls}"')
        write_program(self.stand_ins / "id", "echo 1000")
        write_program(self.stand_ins / "df", "printf 'h\\nx 1 1 99999 1 /\\n'")
        # `python3 -m venv FOLDER` makes an environment whose programs are stand-ins too.
        self.environment_programs = Path(folder) / "environment"
        write_program(self.environment_programs / "python", f'echo "python $*" >>"{self.calls}"; [[ "$*" != *pip* || ! -e "{folder}/pip_fails" ]]')
        write_program(self.environment_programs / "cmake", f'''echo "cmake $*" >>"{self.calls}"
[[ ! -e "{folder}/build_fails" ]] || {{ echo "one.cpp:1: no such thing"; exit 1; }}
if [[ $1 == --build ]]; then
  mkdir -p "$2/bin"
  cp "{folder}/meristem" "$2/bin/meristem"
fi''')
        write_program(self.environment_programs / "ctest", f'echo "ctest $* parallel=$CTEST_PARALLEL_LEVEL" >>"{self.calls}"')
        write_program(self.stand_ins / "python3", f'''[[ $1 == -c ]] && exit 0
echo "python3 $1 $2" >>"{self.calls}"
[[ $1 == -m && $2 == venv ]] && mkdir -p "$3/bin" "$3/lib/python3.11/site-packages/torch" && cp "{self.environment_programs}"/* "$3/bin"''')
        write_program(Path(folder) / "meristem",
                      'echo "binary $* python=$MERISTEM_PYTHON root=$MERISTEM_ROOT pid=$$"; exit ${ASKED_CODE:-0}')
        self.folder = Path(folder)

    def run(self, script, *arguments, **environment):
        values = {"PATH": f"{self.stand_ins}:/usr/bin:/bin", "HOME": str(self.folder / "nowhere"), "MERISTEM_HOME": str(self.home), "LANG": "C.UTF-8"}
        values.update(environment)
        self.calls.write_text("")
        return subprocess.run([str(self.root / "scripts" / script), *arguments], env=values, capture_output=True, text=True, cwd=self.folder, timeout=120)

    def called(self, pattern):
        return [line for line in self.calls.read_text().splitlines() if re.search(pattern, line)]

    def builds(self):
        return sorted(path.name for path in (self.root / "build").glob("release*"))

    def programs(self):
        return sorted(path for path in (self.root / "build").glob("release*/programs/*/meristem") if path.parent.name != "current")

    def environments(self):
        return sorted(path for path in self.home.glob("venv-*") if path.is_dir())


class EntryTest(unittest.TestCase):
    def setUp(self):
        self.temporary = tempfile.TemporaryDirectory()
        self.addCleanup(self.temporary.cleanup)
        self.clone = Clone(self.temporary.name)

    def prepared(self):
        result = self.clone.run("meristem", "inspect", "x")
        self.assertEqual(result.returncode, 0, result.stderr)
        return self.clone

    def test_first_call_prepares_and_becomes_the_binary(self):
        result = self.clone.run("meristem", "train", "run.yaml", "a.b=1 2", "--dry-run")
        self.assertEqual(result.returncode, 0, result.stderr)
        environment, = self.clone.environments()
        self.assertRegex(result.stdout, rf"^binary train run.yaml a.b=1 2 --dry-run python={environment}/bin/python root={self.clone.root} pid=\d+\n$")
        self.assertEqual(len(self.clone.called("-m venv")), 1)
        install, = self.clone.called("pip install")
        self.assertIn("--only-binary :all:", install)
        configure, = self.clone.called("--preset release")
        self.assertIn(f"-DMERISTEM_TORCH_ROOT={environment}/lib/python3.11/site-packages/torch", configure)
        self.assertEqual(len(self.clone.called("--build .* --target meristem")), 1)
        self.assertIn("installing Python packages", result.stderr)  # progress goes to stderr, the answer alone to stdout

    def test_later_calls_start_at_once_and_prepare_nothing(self):
        clone = self.prepared()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = clone.run("meristem", "plan", "run.yaml", "--json")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.assertEqual(result.stderr, "")
        self.assertEqual(clone.calls.read_text(), "")
        # Processor time, not wall time: the bound holds on a busy machine too.
        self.assertLess(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 0.3)

    def test_the_command_is_the_binary_itself(self):
        clone = self.prepared()
        process = subprocess.Popen([str(clone.root / "scripts/meristem"), "train"], stdout=subprocess.PIPE, text=True,
                                   env={"PATH": f"{clone.stand_ins}:/usr/bin:/bin", "MERISTEM_HOME": str(clone.home), "HOME": "/", "ASKED_CODE": "75"})
        output, _ = process.communicate(timeout=60)
        self.assertIn(f"pid={process.pid}\n", output)  # no process stands between a signal and the trainer
        self.assertEqual(process.returncode, 75)

    def test_an_edit_and_a_removed_file_cause_a_build(self):
        clone = self.prepared()
        clone.run("meristem", "inspect")
        self.assertEqual(clone.called("--build"), [])
        for change in (lambda: (clone.root / "src/core/one.cpp").write_text("int x;"), lambda: (clone.root / "src/core/one.cpp").unlink(),
                       lambda: (clone.root / "CMakeLists.txt").write_text("#")):
            time.sleep(0.02)  # the clock of file times ticks every few milliseconds
            change()
            clone.run("meristem", "inspect")
            self.assertEqual(len(clone.called("--build")), 1)
            self.assertEqual(clone.called("pip"), [])
            clone.run("meristem", "inspect")
            self.assertEqual(clone.called("--build"), [])

    def test_a_build_beside_a_running_job_leaves_its_program(self):
        """The job may start its program again, as a launcher does, and finds the one that it began with; once nobody runs it, the next build removes it."""
        clone = self.prepared()
        write_program(clone.folder / "meristem", 'echo "old $MERISTEM_BINARY"; read -r _; exec "$MERISTEM_BINARY" again')
        (clone.root / "src/core/one.cpp").write_text("int x;")
        environment = {"PATH": f"{clone.stand_ins}:/usr/bin:/bin", "MERISTEM_HOME": str(clone.home), "HOME": "/"}
        job = subprocess.Popen([str(clone.root / "scripts/meristem"), "train"], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(job.wait)
        self.addCleanup(job.kill)
        said, path = job.stdout.readline().split()
        self.assertEqual(said, "old")
        for content in ("int y;", "int z;"):  # one build after another
            time.sleep(0.02)
            write_program(clone.folder / "meristem", f'echo "new {content} $MERISTEM_BINARY"')
            (clone.root / "src/core/one.cpp").write_text(content)
            new = clone.run("meristem", "train")
            self.assertIn(f"new {content} ", new.stdout, new.stderr)
            self.assertNotIn(path, new.stdout)
        self.assertIn("old ", Path(path).read_text())
        self.assertEqual(len(clone.programs()), 2)  # the job's and the newest: nobody runs the one between
        job.stdin.write("\n")
        job.stdin.flush()
        self.assertEqual(job.stdout.readline(), f"old {path}\n")  # started again
        job.stdin.close()
        job.kill()
        job.wait()
        time.sleep(0.02)
        (clone.root / "src/core/one.cpp").write_text("int w;")
        clone.run("meristem", "train")
        self.assertFalse(Path(path).exists())
        self.assertEqual(len(clone.programs()), 1)

    def test_each_home_has_a_build_of_its_own(self):
        clone = self.prepared()
        kept = {path: path.stat().st_mtime_ns for path in clone.programs()}
        write_program(clone.folder / "meristem", 'echo "another"')
        home = clone.folder / "nowhere" / ".cache" / "meristem"
        for values in ({"MERISTEM_HOME": str(clone.folder / "second")}, {"MERISTEM_HOME": str(home)}, {"MERISTEM_HOME": ""}):
            self.assertEqual(clone.run("meristem", "inspect", **values).stdout, "another\n")
        gpu = "-gpu" if os.path.exists("/dev/nvidiactl") else ""
        self.assertEqual(len(clone.builds()), 3)
        self.assertIn("release" + gpu, clone.builds())  # the default home's, named or not
        self.assertEqual({path: path.stat().st_mtime_ns for path in kept}, kept)
        again = clone.run("meristem", "inspect", "x")
        self.assertIn("binary inspect x", again.stdout)
        self.assertEqual(clone.called("--build|venv"), [])

    def test_a_program_that_was_removed_is_built_again(self):
        clone = self.prepared()
        shutil.rmtree(clone.programs()[0].parent)
        self.assertIn("binary inspect", clone.run("meristem", "inspect").stdout)

    def test_an_interrupted_installation_does_not_count(self):
        (self.clone.folder / "pip_fails").touch()
        self.assertEqual(self.clone.run("meristem", "inspect").returncode, 1)
        environment, = self.clone.environments()
        (environment / "left over").touch()
        (self.clone.folder / "pip_fails").unlink()
        self.assertEqual(self.clone.run("meristem", "inspect").returncode, 0)
        self.assertEqual(len(self.clone.called("-m venv")), 1)
        self.assertFalse((environment / "left over").exists())

    def test_a_failed_build_shows_why_and_is_tried_again(self):
        (self.clone.folder / "build_fails").touch()
        result = self.clone.run("meristem", "inspect")
        self.assertEqual(result.returncode, 1)
        self.assertIn("one.cpp:1: no such thing", result.stderr)
        (self.clone.folder / "build_fails").unlink()
        self.assertEqual(self.clone.run("meristem", "inspect").returncode, 0)

    def test_a_changed_pin_makes_a_new_environment_and_a_second_clone_reuses_it(self):
        clone = self.prepared()
        first, = clone.environments()
        with open(clone.root / "third_party/python.txt", "a") as pins:
            pins.write("# another\n")
        clone.run("meristem", "inspect")
        self.assertEqual(len(clone.called("-m venv")), 1)
        self.assertEqual(len(clone.environments()), 2)
        shutil.copytree(ROOT / "third_party", clone.root / "third_party", dirs_exist_ok=True)
        clone.run("meristem", "inspect")
        self.assertEqual(clone.called("-m (venv|pip)"), [])
        self.assertIn(str(first), clone.run("meristem", "inspect").stdout)

    def test_parallel_first_calls_prepare_once(self):
        environment = {"PATH": f"{self.clone.stand_ins}:/usr/bin:/bin", "MERISTEM_HOME": str(self.clone.home), "HOME": "/"}
        both = [subprocess.Popen([str(self.clone.root / "scripts/meristem"), "inspect", str(i)], env=environment, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, text=True) for i in range(2)]
        outputs = [process.communicate(timeout=60) for process in both]
        self.assertEqual([process.returncode for process in both], [0, 0], outputs)
        self.assertEqual(len(self.clone.called("pip install")), 1)

    def test_missing_packages_without_root_are_one_line(self):
        self.clone.absent.write_text("libyaml-cpp-dev\ncatch2\n")
        result = self.clone.run("meristem", "train", "run.yaml")
        self.assertEqual(result.returncode, 2)
        self.assertEqual(result.stderr.count("\n"), 1)
        self.assertIn("sudo apt-get install -y libyaml-cpp-dev catch2\n", result.stderr)
        self.assertEqual(self.clone.calls.read_text(), "")

    def test_missing_optional_packages_stop_nobody(self):
        self.clone.absent.write_text("ccache\n")
        result = self.clone.run("meristem", "inspect")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("sudo apt-get install -y ccache\n", result.stderr)

    def test_missing_packages_with_root_are_installed(self):
        write_program(self.clone.stand_ins / "id", "echo 0")
        self.clone.absent.write_text("libfmt-dev\nmold\n")
        result = self.clone.run("meristem", "inspect")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual([line.split(" -y ")[1] for line in self.clone.called("apt-get")], ["update", "install --no-install-recommends libfmt-dev mold"])

    def test_help_and_unknown_commands_need_no_preparation(self):
        shown = self.clone.run("meristem", "--help")
        self.assertEqual((shown.returncode, shown.stderr), (0, ""))
        self.assertIn("quickstart", shown.stdout)
        for arguments in (["trian"], ["data", "tokenise"], ["data"], []):
            result = self.clone.run("meristem", *arguments)
            self.assertEqual(result.returncode, 2)
            self.assertEqual(result.stdout, "")
        self.assertIn('unknown command "trian"; allowed: quickstart, train', self.clone.run("meristem", "trian").stderr)
        self.assertFalse(self.clone.home.exists())

    def test_text_commands_go_to_python_and_ids_to_the_binary(self):
        clone = self.prepared()
        for words in ("data tokenize a.txt --chat", "data train-tokenizer a", "data verify p", "data inspect p", "data primitives --items 3", "eval c --tasks x",
                      "generate c --prompt x", "generate c --chat", "quickstart", "plot r", "report r s",
                      "follow r --to wandb", "completion bash"):
            clone.run("meristem", *words.split())
            self.assertEqual(clone.called("python"), [f"python {clone.root}/scripts/python {words}"])
        clone.run("meristem", "data", "tokenize", "a b.txt")
        self.assertEqual(clone.called("python"), [f"python {clone.root}/scripts/python data tokenize a b.txt"])
        for words in ("train r.yaml a=b --nproc 2", "train --nproc=2 r.yaml --max-restarts 3"):
            clone.run("meristem", *words.split())
            self.assertEqual(clone.called("python"), [f"python {clone.root}/scripts/python launch {words}"])
        self.assertIn("binary generate c --prompt-ids 1,2", clone.run("meristem", "generate", "c", "--prompt-ids", "1,2").stdout)
        self.assertEqual(clone.called("python"), [])

    def test_script_called_through_a_link_from_anywhere(self):
        clone = self.prepared()
        (clone.stand_ins / "meristem").symlink_to(clone.root / "scripts/meristem")
        result = subprocess.run(["meristem", "inspect"], env={"PATH": f"{clone.stand_ins}:/usr/bin:/bin", "MERISTEM_HOME": str(clone.home), "HOME": "/"},
                                capture_output=True, text=True, cwd="/", timeout=60)
        self.assertIn(f"root={clone.root} ", result.stdout)

    def test_scripts_test_builds_everything_and_leaves_long_ones_out(self):
        result = self.clone.run("test", "-R", "depth")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(len(self.clone.called("--build .* --target all")), 1)
        call, = self.clone.called("^ctest")
        self.assertIn("-LE ^long$ -R depth parallel=2", call)
        self.clone.run("test", "--long")
        call, = self.clone.called("^ctest")
        self.assertNotIn("-LE", call)


class PinsTest(unittest.TestCase):
    def test_every_python_package_has_an_exact_version(self):
        for name in ("python.txt", "constraints.txt"):
            for line in (ROOT / "third_party" / name).read_text().splitlines():
                requirement = line.split("#")[0].strip()
                self.assertRegex(requirement, r"^$|^[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*$")

    def test_scripts_and_pins_name_no_host(self):
        files = [*ROOT.glob("scripts/**/*"), *ROOT.glob("third_party/*"), *ROOT.glob(".ci/*")]
        for path in files:
            if path.is_file() and path.suffix != ".pyc":
                self.assertNotRegex(path.read_text(), r"--(extra-)?index-url|--find-links|--trusted-host", path)


if __name__ == "__main__":
    unittest.main(verbosity=2)

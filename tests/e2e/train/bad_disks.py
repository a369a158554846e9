"""Disks that are full and folders that may not be written. A small or read-only file system is mounted in a mount namespace of its own, so
that root meets it as everybody does; where namespaces are not allowed, those cases are skipped."""

import functools
import json
import os
import resource
import shutil
import subprocess
import unittest

import refusal
import tiny_run

PROGRAM = refusal.PROGRAM
UNSHARE = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
SMALL = 'mount -t tmpfs -o "size=$1,nr_inodes=$2" none "$3" && cp -a "$4/." "$3" && shift 4 && exec "$@"'
READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'


@functools.cache
def can_mount():
    try:
        return subprocess.run([*UNSHARE, "sh", "-c", "mount -t tmpfs none /mnt"], capture_output=True, timeout=20).returncode == 0
    except OSError:
        return False


def needs_mounts(test):
    return unittest.skipUnless(can_mount(), "no mount namespaces here")(test)


class Disk(refusal.Case):
    with_run = True

    def setUp(self):
        super().setUp()
        self.checkpoints = tiny_run.published(self.folder)

    def unfinished(self, last=-1):
        """The run as if it had been stopped at an earlier checkpoint, without lines to be moved away."""
        for one in self.checkpoints[last:]:
            shutil.rmtree(one)
        step = int(self.checkpoints[last - 1].name[5:])
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().splitlines(True)
        path.write_text("".join(line for line in lines if json.loads(line)["step"] <= step))

    def whole(self):
        self.assertEqual([tiny_run.trouble_of(one) for one in tiny_run.published(self.folder)], [None] * len(tiny_run.published(self.folder)))
        self.assertEqual(tiny_run.pending(self.folder), [])

    def wrapped(self, code, named, prefix, *arguments, **options):
        """As refused(), but the program is started by the command `prefix`."""
        program, refusal.PROGRAM = refusal.PROGRAM, prefix[0]
        try:
            return self.refused(code, named, *prefix[1:], program, *arguments, **options)
        finally:
            refusal.PROGRAM = program


class FullDisk(Disk):
    @needs_mounts
    def test_small_disks(self):
        """What is known to find no room is refused before any work."""
        disk, empty = self.root / "disk", self.root / "empty"
        disk.mkdir(), empty.mkdir()

        def case(what, size, inodes, content, named, *arguments):
            with self.subTest(what):
                self.wrapped(1, named, [*UNSHARE, "sh", "-c", SMALL, "sh", size, str(inodes), str(disk), str(content)], *arguments)

        room = [disk, "not enough free disk", "bytes needed", "bytes free"]
        case("no page", "4k", 100, empty, room, "train", self.config, f"run.out={disk}")
        case("one checkpoint too small", "600k", 100, empty, room, "train", self.config, f"run.out={disk}")
        case("a branch", "600k", 100, empty, room, "train", self.config, f"run.out={disk}", "--branch", self.checkpoints[0])
        case("no inode for the run folder", "90m", 1, empty, [disk, "No space left"], "train", self.config, f"run.out={disk}")
        case("inodes for some folders", "90m", 3, empty, [disk, "No space left"], "train", self.config, f"run.out={disk}")
        case("inodes for all folders", "90m", 7, empty, [disk, "No space left"], "train", self.config, f"run.out={disk}")
        case("a grown checkpoint", "600k", 100, empty, [disk / "grown", "not enough free disk"], "grow", self.checkpoints[-1], "--add", "1",
             "--out", disk / "grown")
        case("no inode for a grown checkpoint", "90m", 1, empty, [disk, "No space left"], "grow", self.checkpoints[-1], "--add", "1", "--out",
             disk / "grown")
        self.unfinished()
        size = sum(path.stat().st_size for path in self.folder.rglob("*")) // 1024
        case("a run that goes on", f"{size + 400}k", 1000, self.folder.parent, [disk, "not enough free disk"], "train", self.config, "--resume",
             f"{disk}/tiny/checkpoints/{self.checkpoints[-2].name}", f"run.out={disk}")

    @needs_mounts
    def test_a_disk_that_fills_up_during_the_run(self):
        """Somebody else takes the room: the run stops with 1, its checkpoints stay whole, and it goes on when there is room again."""
        disk, kept = self.root / "disk", self.root / "kept"
        disk.mkdir()
        script = """mount -t tmpfs -o size=90m none "$1" && "$3" train "$4" run.out="$1" logging.tensorboard=false 2> "$2.said" > /dev/null &
                    run=$!
                    until grep -q '"step": 20,' "$1/tiny/metrics.jsonl" 2> /dev/null; do kill -0 $run || break; done
                    cat /dev/zero > "$1/zeros" 2> /dev/null
                    wait $run; echo $? >> "$2.said"; rm "$1/zeros"
                    cp -a "$1" "$2" && "$3" train "$4" run.out="$1" --resume auto > /dev/null 2>&1; echo $? >> "$2.said" """
        # The mount must come before the fork into the background.
        script = script.replace('none "$1" && "$3" train', 'none "$1" || exit; "$3" train')
        subprocess.run([*UNSHARE, "sh", "-c", script, "sh", str(disk), str(kept), PROGRAM, str(self.config)], check=True, timeout=120,
                       env=tiny_run.environment())
        said = (self.root / "kept.said").read_text().splitlines()
        self.assertEqual(said[-2:], ["1", "0"], said)
        errors = [line for line in said if line.startswith("meristem: error: ")]
        self.assertEqual(len(errors), 1, said)
        self.assertIn(f"{disk}/tiny/", errors[0])
        self.assertTrue("No space left" in errors[0] or "not enough free disk" in errors[0], errors[0])
        self.folder = kept / "tiny"
        self.assertTrue(tiny_run.published(self.folder))
        self.whole()
        for line in tiny_run.lines(self.folder):
            json.loads(line)

    def test_file_systems_without_room(self):
        """/proc and /sys have no free byte, for root neither."""
        for out in ("/proc", "/proc/self", "/sys/kernel"):
            with self.subTest(out):
                self.refused(1, [f"{out}/new: not enough free disk", "0 bytes free"], "train", self.config, f"run.out={out}", "run.name=new")
        self.refused(1, "/proc/grown: not enough free disk", "grow", self.checkpoints[-1], "--add", "1", "--out", "/proc/grown")

    def limited(self, size, named, *arguments, **options):
        """No file may grow beyond `size` bytes: what a quota does."""

        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

        return self.refused(1, named, *arguments, preexec_fn=limit, **options)

    def test_files_that_may_not_grow(self):
        """The write that does not fit stops the run; nothing half written is published, nothing that was there is changed."""
        sizes = {path.name: path.stat().st_size for path in self.checkpoints[0].iterdir()}
        new = ["train", self.config, "run.name=new"]
        self.folder = self.root / "runs" / "new"
        for size, name in ((1, "config.yaml"), (1000, "config.yaml"), (sizes["model.safetensors"] - 1, "model.safetensors"),
                           (sizes["optimizer-0.safetensors"] - 1, "optimizer-0.safetensors")):
            with self.subTest(size):
                before = tiny_run.snapshot(self.root / "runs" / "tiny")
                self.limited(size, [self.folder, name, "cannot be written: File too large"], *new, untouched=False)
                self.assertEqual(tiny_run.published(self.folder), [])
                self.whole()
                self.assertEqual(tiny_run.snapshot(self.root / "runs" / "tiny"), before)
                shutil.rmtree(self.folder)
        for size, name in ((100, "model.safetensors"), (100_000, "model.safetensors"), (500_000, "optimizer-0.safetensors")):
            with self.subTest(f"grow, {size}"):
                self.limited(size, [self.root / "grown", name, "File too large"], "grow", self.checkpoints[-1], "--add", "2", "--out", self.root / "grown")
        going_on = self.going_on()
        before = self.files()
        self.limited(1000, [self.folder / "config.yaml", "File too large"], *going_on, untouched=False)
        self.assertEqual(self.files(), before)

    def files(self):
        return {path: path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}

    def going_on(self):
        self.folder = self.root / "runs" / "tiny"
        self.unfinished()
        return ["train", self.config, "--resume", "auto"]

    def test_output_that_goes_nowhere(self):
        """/dev/full takes no byte: what is lost is not called done."""
        for arguments in (["inspect", self.checkpoints[0]], ["inspect", self.root / "data" / "one"], ["plan", self.config], ["plan", self.config, "--json"],
                          ["train", self.config, "--dry-run"], ["generate", self.folder, "--prompt-ids", "1", "--max-tokens", "3"], ["--help"],
                          ["config-reference"]):
            with self.subTest(arguments[0]):
                before = tiny_run.snapshot(self.root)
                with open("/dev/full", "w") as full:
                    done = subprocess.run([PROGRAM, *map(str, arguments)], stdout=full, stderr=subprocess.PIPE, text=True, env=tiny_run.environment())
                self.assertEqual(done.returncode, 1, done.stderr)
                self.assertIn("meristem: error: stdout: cannot be written: No space left on device", done.stderr)
                self.assertEqual(tiny_run.snapshot(self.root), before)


class ReadOnly(Disk):
    def read_only(self, path, named, *arguments, **options):
        with self.subTest(path.name):
            self.wrapped(2, [*named, "Read-only file system"], [*UNSHARE, "sh", "-c", READ_ONLY, "sh", str(path)], *arguments, **options)

    @needs_mounts
    def test_folders_for_new_things(self):
        out = self.root / "runs"
        self.read_only(out, [out / "new"], "train", self.config, "run.name=new")
        self.read_only(out, [out / "deeper"], "train", self.config, f"run.out={out / 'deeper' / 'still'}")
        self.read_only(out, [out / "new"], "train", self.config, "run.name=new", "--branch", self.checkpoints[0])
        self.read_only(out, [out / "grown"], "grow", self.checkpoints[-1], "--add", "1", "--out", out / "grown")
        self.read_only(out, [out / "a"], "grow", self.checkpoints[-1], "--add", "1", "--out", out / "a" / "b")
        (out / "empty").mkdir()
        self.read_only(out / "empty", [out / "empty"], "train", self.config, "run.name=empty")

    @needs_mounts
    def test_parts_of_a_run_that_goes_on(self):
        self.unfinished()
        for name in ("metrics.jsonl", "checkpoints", "tensorboard", "samples"):
            part = self.folder / name
            before = tiny_run.snapshot(self.folder / "checkpoints")
            self.read_only(part, [part], "train", self.config, "--resume", "auto", untouched=False)
            self.assertEqual(tiny_run.snapshot(self.folder / "checkpoints"), before, "a checkpoint came, went or was changed")
            self.whole()
        self.read_only(self.folder, [self.folder], "train", self.config, "--resume", "auto")

    @needs_mounts
    def test_reading_needs_no_writing(self):
        """The counter-test: what only reads works on a read-only file system."""
        for arguments in (["inspect", self.folder], ["train", self.config, "run.name=new", "--dry-run"], ["train", self.config, "--resume", "auto"]):
            with self.subTest(arguments[0]):
                code, _, err = tiny_run.run(UNSHARE[0], *UNSHARE[1:], "sh", "-c", READ_ONLY, "sh", self.root, PROGRAM, *arguments)
                self.assertEqual(code, 0, err)

    def test_places_that_are_no_folders(self):
        file = self.root / "file"
        file.write_text("")
        for out in (file, file / "deeper", "/dev/null", "/dev/full/deeper"):
            with self.subTest(str(out)):
                self.refused(2, str(out), "train", self.config, f"run.out={out}", "run.name=new")
        self.refused(2, file, "grow", self.checkpoints[-1], "--add", "1", "--out", file / "grown")
        self.refused(2, file, "grow", self.checkpoints[-1], "--add", "1", "--out", file)
        self.refused(2, self.checkpoints[0], "grow", self.checkpoints[-1], "--add", "1", "--out", self.checkpoints[0])



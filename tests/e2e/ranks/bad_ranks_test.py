"""Jobs that cannot be: each ends with its exit code on every rank, with one line of each that says what is wrong, and nothing is written."""

import shutil
import signal
import socket
import sys
import time
import unittest
from pathlib import Path

import ranks
import tiny_run
import refusal
from bad_disks import UNSHARE, needs_mounts

PROGRAM = refusal.PROGRAM
OVER = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'  # another file in its place, for one process


class Case(refusal.Case):
    def refused_by_all(self, code, named, *arguments, world=2, only=None, deadline=30, untouched=True, **options):
        """Every rank ends with `code`; one line each, with its rank but for rank 0, and with all of `named`. Returns the lines."""
        before = tiny_run.snapshot(self.root)
        ends = ranks.Job(PROGRAM, *arguments, world=world, only=only, **options).wait(deadline)
        self.assertEqual({rank: end.code for rank, end in ends.items()}, dict.fromkeys(ends, code), ends)
        for rank, end in ends.items():
            lines = end.errors()
            self.assertEqual((len(lines), end.err.strip().splitlines()[-1:]), (1, lines), f"rank {rank}: {end.err}")
            self.assertEqual(lines[0].startswith(f"meristem: error: [rank {rank}] "), rank > 0, lines[0])
            for part in map(str, [named] if isinstance(named, (str, Path)) else named):
                self.assertIn(part, lines[0], f"rank {rank}")
        if untouched:
            self.assertEqual(tiny_run.snapshot(self.root), before, "files came, went or were changed")
        return [end.errors()[0] for end in ends.values()]

    @staticmethod
    def seen_by_rank_1(other, place):
        """Rank 1 finds something else in this place. Both are ordinary starts of the program, none of them a fork of a server."""
        return {0: ["env"], 1: [*UNSHARE, "sh", "-c", OVER, "sh", str(other), str(place)]}


class Worlds(Case):
    def test_a_world_that_does_not_divide_the_batch(self):
        self.refused_by_all(2, ["batch.tokens", "3"], "train", self.config, world=3)
        self.refused_by_all(2, ["batch.tokens", "4"], "train", self.config, world=4)

    def test_variables_that_are_none(self):
        for variables, named in (({"WORLD_SIZE": "two"}, "WORLD_SIZE"), ({"RANK": "2"}, "RANK"), ({"RANK": "-1"}, "RANK"), ({"MASTER_PORT": "port"}, "MASTER_PORT"),
                                 ({"MASTER_PORT": "70000"}, "MASTER_PORT"), ({"MASTER_ADDR": ""}, "MASTER_ADDR"), ({"WORLD_SIZE": "0"}, "WORLD_SIZE")):
            with self.subTest(variables):
                env = tiny_run.environment() | {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(ranks.free_port())}
                code, _, err = tiny_run.run(PROGRAM, "train", self.config, env=env | variables, timeout=30)
                self.assertEqual((code, len(err.strip().splitlines())), (2, 1), err)
                self.assertIn(named, err)

    def test_ranks_with_other_configs(self):
        for change, key in (("optimizer.lr=1e-3", "optimizer.lr"), ("run.seed=4", "run.seed"), ("model.width=64", "model.width"),
                            (f"run.out={self.root / 'elsewhere'}", "run.out"), ("parallel.shard_optimizer=false", "parallel.shard_optimizer")):
            with self.subTest(change):
                self.refused_by_all(2, ["rank 1", "config"], "train", self.config, each={1: [change]})

    def test_ranks_with_other_programs(self):
        other = self.root / "program"
        shutil.copy(PROGRAM, other)
        run_other = {0: ["env"], 1: ["sh", "-c", 'shift; exec "$0" "$@"', other]}
        ranks.train(PROGRAM, self.config, world=2, prefix=run_other)  # the same program in another place is the same
        shutil.rmtree(self.folder)
        with open(other, "ab") as file:
            file.write(b"another")
        self.refused_by_all(2, ["rank 1", "program"], "train", self.config, prefix=run_other)

    @needs_mounts
    def test_ranks_that_read_other_data(self):
        shard = self.root / "data" / "one.bin"
        other = self.root / "other.bin"
        raw = bytearray(shard.read_bytes())
        raw[100] ^= 1
        other.write_bytes(raw)
        self.refused_by_all(2, ["rank 1", "the data of source one"], "train", self.config, prefix=self.seen_by_rank_1(other, shard))


class Ports(Case):
    def test_a_port_in_use(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            self.refused_by_all(2, ["MASTER_PORT", port], "train", self.config, only=[0], port=port)

    def test_an_address_that_is_none(self):
        self.refused_by_all(1, "no.such.host.invalid", "train", self.config, "parallel.join_seconds=3", only=[1], environment={"MASTER_ADDR": "no.such.host.invalid"})


class Waits(Case):
    """For those that do not come."""

    SOON = ("batch.tokens=256", "parallel.join_seconds=3")

    def refused_soon(self, code, named, **options):
        begun = time.monotonic()
        said = self.refused_by_all(code, named, "train", self.config, *self.SOON, deadline=15, **options)
        self.assertGreater(time.monotonic() - begun, 2.9)
        return said

    def test_ranks_that_never_come(self):
        port = ranks.free_port()
        self.refused_soon(1, ["rank 2, 3 of 4 have not come within 3 s", f"127.0.0.1:{port}"], world=4, only=[0, 1], port=port)

    def test_rank_0_never_comes(self):
        port = ranks.free_port()
        self.refused_soon(1, ["rank 0", f"127.0.0.1:{port}", "3 s"], only=[1], port=port)

    def test_something_else_listens(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            self.refused_soon(1, ["rank 0", f"127.0.0.1:{port}"], only=[1], port=port)


class Folders(Case):
    LONG = ("schedule.steps=100000", "batch.tokens=256", "checkpoint.every=1000")

    def start(self, *arguments, world=2, at=1):
        job = ranks.Job(PROGRAM, "train", self.config, *self.LONG, *arguments, world=world)
        self.addCleanup(job.stop)
        job.until(lambda: tiny_run.last_step(self.folder) >= at)
        return job

    def test_a_run_folder_in_use(self):
        for world in (1, 2):
            with self.subTest(world):
                self.config = tiny_run.write_config(self.root, f"of-{world}")
                self.folder = self.root / f"of-{world}" / "tiny"
                job = self.start(world=world)
                holder = [self.folder, socket.gethostname(), str(job.pid(0))]
                for arguments in (["--resume", "auto"], ["--resume", "auto", "optimizer.lr=1e-4"]):
                    code, _, err = tiny_run.run(PROGRAM, "train", self.config, *self.LONG, *arguments, timeout=30)
                    self.assertEqual((code, len(err.strip().splitlines())), (2, 1), err)
                    for part in map(str, holder):
                        self.assertIn(part, err)
                self.refused_by_all(2, holder, "train", self.config, *self.LONG, "--resume", "auto", untouched=False)
                self.assertTrue(all(job.running(rank) for rank in job.processes), "a refused job disturbs the one that runs")
                # A lock outlives no dead one, however it died.
                job.stop()
                job = self.start("--resume", "auto", world=world, at=tiny_run.last_step(self.folder) + 1)
                job.stop()

    def test_jobs_that_race_for_a_new_folder(self):
        for turn in range(4):
            with self.subTest(turn):
                out = f"run.name=race-{turn}"
                jobs = [ranks.Job(PROGRAM, "train", self.config, "schedule.steps=20", "growth.schedule.at_steps=[5, 10]", "phases=[]", out, world=world)
                        for world in ((2, 2), (1, 2), (2, 1), (1, 1))[turn]]
                codes = [sorted({end.code for end in job.wait(60).values()}) for job in jobs]
                self.assertEqual(sorted(codes), [[0], [2]], [job.ends for job in jobs])
                loser = jobs[codes.index([2])]
                for end in loser.ends.values():
                    self.assertEqual(len(end.errors()), 1, end.err)
                    self.assertIn(f"race-{turn}", end.errors()[0])
                folder = self.root / "runs" / f"race-{turn}"
                self.assertEqual([line["step"] for line in ranks.steps(folder)], list(range(1, 21)))
                self.assertEqual([tiny_run.trouble_of(one) for one in tiny_run.published(folder)], [None] * len(tiny_run.published(folder)))


class Checkpoints(Case):
    """Of two ranks, each with its part of the optimizer."""

    @classmethod
    def setUpClass(cls):
        cls.kept = Path(refusal.tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.kept)
        shutil.copytree(refusal.finished_run() / "data", cls.kept / "data")
        ranks.train(PROGRAM, tiny_run.write_config(cls.kept), "batch.tokens=256", world=2)

    def setUp(self):
        super().setUp()
        shutil.copytree(self.kept / "runs", self.root / "runs")
        self.config.write_text(tiny_run.CONFIG.format(out=self.root / "runs", data=self.kept / "data"))
        self.newest = tiny_run.published(self.folder)[-1]
        self.part = self.newest / "optimizer-1.safetensors"
        self.train = ("train", self.config, "batch.tokens=256", "--resume")

    def damages(self):
        def flipped():
            raw = bytearray(self.part.read_bytes())
            raw[-2] ^= 1
            self.part.write_bytes(raw)

        return (("a bit", flipped), ("short", lambda: self.part.write_bytes(self.part.read_bytes()[:-1])), ("gone", self.part.unlink))

    def test_a_damaged_part(self):
        whole = self.part.read_bytes()
        for (what, damage), world in zip(self.damages(), (4, 2, 4)):
            with self.subTest(what):
                damage()
                self.refused_by_all(4, [self.newest, self.part.name], *self.train, self.newest, world=world)
                self.refused(4, [self.newest, self.part.name], *self.train, self.newest)
                self.refused(4, [self.newest, self.part.name], "inspect", self.newest)
                self.part.write_bytes(whole)

    def test_a_damaged_newest_one_is_set_aside_by_all(self):
        self.damages()[0][1]()
        ends = ranks.train(PROGRAM, *self.train[1:], "auto", world=4)
        self.assertIn("DAMAGED", ends[0].err)
        self.assertIn(self.part.name, ends[0].err)
        self.assertEqual([line["step"] for line in ranks.steps(self.folder)], list(range(1, tiny_run.STEPS + 1)))

    @needs_mounts
    def test_ranks_that_see_other_checkpoints(self):
        """Rank 1 has a node of its own, where the newest one never arrived."""
        empty = self.root / "older"
        shutil.copytree(self.folder / "checkpoints", empty)
        shutil.rmtree(empty / self.newest.name)
        self.refused_by_all(2, ["rank 1", "the checkpoint"], *self.train, "auto",
                            prefix=self.seen_by_rank_1(empty, self.folder / "checkpoints"))


class Failures(Case):
    def test_a_rank_that_dies_is_named(self):
        for died in (0, 1):
            with self.subTest(died):
                job = ranks.Job(PROGRAM, "train", self.config, *Folders.LONG, "parallel.heartbeat_seconds=5", f"run.name=died-{died}", world=4)
                self.addCleanup(job.stop)
                job.until(lambda died=died: tiny_run.last_step(self.root / "runs" / f"died-{died}") >= 3)
                pid = job.pid(died)
                job.signal(died, signal.SIGKILL)
                ends = job.wait(20)
                for rank, end in ends.items():
                    if rank == died:
                        self.assertEqual(end.code, -signal.SIGKILL)
                        continue
                    self.assertEqual((end.code, len(end.errors())), (1, 1), end)
                    self.assertIn(f"rank {died}", end.errors()[0])
                    if died:  # of rank 0, which keeps the store, there may be no more to know
                        self.assertIn(str(pid), end.errors()[0])

    def test_a_rank_that_hangs_is_named(self):
        job = ranks.Job(PROGRAM, "train", self.config, *Folders.LONG, "parallel.heartbeat_seconds=4", world=4)
        self.addCleanup(job.stop)
        job.until(lambda: tiny_run.last_step(self.folder) >= 3)
        begun = time.monotonic()
        job.signal(2, signal.SIGSTOP)
        for rank, end in job.wait(20, only=[0, 1, 3]).items():
            self.assertEqual((end.code, len(end.errors())), (1, 1), end)
            self.assertIn("rank 2 (", end.errors()[0])
            self.assertIn(f"process {job.pid(2)}) has not been heard of for 4 s", end.errors()[0], f"rank {rank}")
        self.assertGreater(time.monotonic() - begun, 3)
        job.signal(2, signal.SIGCONT)
        self.assertEqual(job.wait(20)[2].code, 1)

    def test_a_value_that_is_not_finite_stops_all_before_the_update(self):
        ends = ranks.run(PROGRAM, "train", self.config, "batch.tokens=256", "optimizer.lr=1e3", "optimizer.clip_norm=0", "schedule.warmup=0", "optimizer.eps=1e-30",
                         world=2, deadline=60)
        self.assertEqual([end.code for end in ends.values()], [3, 3], ends)


if __name__ == "__main__":
    program = unittest.main(argv=sys.argv[:1] + sys.argv[2:], verbosity=2, exit=False)
    if not program.result.wasSuccessful():
        sys.exit(1)
    sys.exit(4 if program.result.skipped else 0)  # 4: CTest shows it as skipped

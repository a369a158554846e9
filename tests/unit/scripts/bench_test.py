"""scripts/bench: the protocol between driver and programs, the order of steps, ratios; the peer itself at a tiny size."""

import contextlib
import importlib.util
import io
import json
import os
import sys
import tempfile
import unittest
import unittest.mock
from pathlib import Path

BENCH = Path(__file__).resolve().parents[3] / "scripts" / "bench"
sys.path.insert(0, str(BENCH))
import architectures  # noqa: E402
import compare  # noqa: E402
import eval_speed  # noqa: E402

# Speaks the protocol; each step takes the seconds that the first argument says, and leaves its name in a file.
FAKE = """
import json, sys
seconds, name, log = float(sys.argv[1]), sys.argv[2], sys.argv[3]
print("some other text")
print(json.dumps({"ready": True, "parameters": 5}), flush=True)
for line in sys.stdin:
    if line == "quit\\n": break
    open(log, "a").write(name if line.strip() == "step" else line.strip())
    if line.startswith("idle "):
        print(json.dumps({"failed": "no profiler"} if name == "unseen" else {"gpu_idle": 0.02}), flush=True)
        continue
    if line.strip() == "memory":
        print(json.dumps({"peak_bytes": 7, "device_peak_bytes": 5}), flush=True)
        continue
    if line.startswith("profile "):
        print(json.dumps({"product_flops": 2e11, "operators": [["small", 1.0, 3], ["large", 9.0, 2]]}), flush=True)
        continue
    print(json.dumps({"seconds": seconds, "loss": 1.5}), flush=True)
print(json.dumps({"peak_bytes": 1000 * seconds}), flush=True)
"""


class Driver(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.log = Path(scratch.name) / "log"

    def program(self, name, seconds):
        program = compare.Program(name, [sys.executable, "-c", FAKE, str(seconds), name, str(self.log)], dict(os.environ))
        self.addCleanup(program.child.stdout.close)
        self.addCleanup(program.kill)
        return program

    def test_steps_alternate_and_the_first_place_too(self):
        a, b = self.program("a", 1), self.program("b", 3)
        compare.alternate([a, b], warmup=1, rounds=3)
        for program in (a, b):
            program.quit()
        self.assertEqual(self.log.read_text(), "ba" "ab" "ba" "ab")
        self.assertEqual((a.seconds, b.seconds), ([1, 1, 1], [3, 3, 3]))
        self.assertEqual(compare.ratio_to(a, b), {"median": 3, "quartiles": [3, 3]})
        report = b.report(tokens=6)
        self.assertEqual((report["tokens_per_second"], report["peak_bytes"], report["parameters"]), (2, 3000, 5))

    def test_idle_time_is_asked_for_and_reported(self):
        a = self.program("a", 1)
        compare.alternate([a], warmup=0, rounds=1)
        self.assertIsNone(a.gpu_idle)
        a.measure_idle(10)
        a.quit()
        self.assertEqual(self.log.read_text(), "aidle 10")
        self.assertEqual(a.report(tokens=6)["gpu_idle"], 0.02)

    def test_an_idle_share_that_cannot_be_had_is_no_failure(self):
        a = self.program("unseen", 1)
        with contextlib.redirect_stderr(io.StringIO()) as said:
            a.measure_idle(10)
        self.assertIsNone(a.gpu_idle)
        self.assertIn("no profiler", said.getvalue())
        a.quit()

    def compare_first(self, peers):
        """The command with --ours-first, over programs that stand in; its JSON file, and what it ended with."""
        out = Path(self.log.parent) / "out.json"
        arguments = ["compare.py", "--binary", sys.executable, "--precisions", "bf16", "--ours-first", "--idle", "3", "--warmup", "1", "--rounds", "3",
                     "--modes", "compile", "--json", str(out)]
        with unittest.mock.patch.object(compare, "start_ours", lambda *_: iter([self.program("ours", 1)])), \
                unittest.mock.patch.object(compare, "start_peers", peers), unittest.mock.patch("sys.argv", arguments), \
                contextlib.redirect_stdout(io.StringIO()):
            try:
                code = compare.main()
            except SystemExit as ended:
                code = str(ended)
        return json.loads(out.read_text())["comparisons"][0]["programs"], code

    def test_ours_are_measured_and_kept_before_a_peer_is_started(self):
        def no_peer(*_):
            raise SystemExit("bench: transformers compile ended early")
            yield

        programs, code = self.compare_first(no_peer)
        self.assertIn("ended early", code)
        self.assertEqual([(program["program"], program["seconds"], program["gpu_idle"]) for program in programs], [("ours", [1, 1], 0.02)])
        self.assertEqual(programs[0]["device_peak_bytes"], 5)

    def test_with_a_peer_the_rounds_beside_it_count(self):
        programs, code = self.compare_first(lambda *_: iter([self.program("peer", 3)]))
        self.assertEqual(code, 0)
        self.assertEqual([program["seconds"] for program in programs], [[1, 1, 1], [3, 3, 3]])
        self.assertEqual(programs[1]["ours_over_this"]["median"], 3)
        self.assertEqual(self.log.read_text().count("idle 3"), 1)

    def test_a_profile_is_asked_for_and_its_most_expensive_operator_stands_first(self):
        a = self.program("a", 1)
        a.measure_profile(4)
        a.quit()
        lines = compare.profile_table({"program": "a", "profile": a.profile}, "fp32").splitlines()
        self.assertEqual(lines[0], "a, fp32: 10.0 ms an update in operators; products of 1024 x 1024 run at 200 GFLOP/s here")
        self.assertEqual(lines[2].split(), ["large", "9.00", "90.0%", "2"])

    def test_a_program_that_ends_early_is_named(self):
        with self.assertRaisesRegex(SystemExit, "broken ended early with exit code 3"):
            compare.Program("broken", [sys.executable, "-c", "raise SystemExit(3)"], dict(os.environ))

    def test_what_falls_short_is_said(self):
        def result(ratio, ours, peer):
            theirs = {"program": "peer", "peak_bytes": peer, "ours_over_this": {"median": ratio}}
            return {"comparisons": [{"precision": "fp32", "programs": [{"peak_bytes": ours}, theirs]}]}

        self.assertEqual(compare.falls_short(result(1.0, 5, 5), 1.0), [])
        self.assertEqual(len(compare.falls_short(result(0.99, 5, 5), 1.0)), 1)
        self.assertEqual(len(compare.falls_short(result(2.0, 6, 5), 1.0)), 1)


class Shapes(unittest.TestCase):
    def shapes(self, *options):
        with unittest.mock.patch("sys.argv", ["cpu", "--binary", sys.executable, *options]):
            return compare.shapes_of(compare.parse_arguments())

    def test_one_shape_is_its_size_with_what_is_given(self):
        self.assertEqual(self.shapes("--size", "30M", "--vocab", "64"), [compare.SIZES["30M"] | {"vocab": 64}])

    def test_the_matrix_has_every_size_vocabulary_and_length_with_the_size_s_tokens(self):
        shapes = self.shapes("--matrix")
        self.assertEqual(len(shapes), 12)
        self.assertEqual({(s["width"], s["batch"] * s["sequence"]) for s in shapes}, {(128, 2048), (256, 4096), (512, 2048)})
        self.assertEqual({(s["vocab"], s["sequence"]) for s in shapes}, {(4096, 256), (4096, 2048), (49152, 256), (49152, 2048)})
        self.assertEqual(len(self.shapes("--matrix", "--sizes", "1M", "--vocab", "64")), 2)

    def test_a_loop_is_promised_the_decoder_s_time_and_the_others_that_of_their_flops(self):
        # The machine was twice as slow in the second round, and slow for the loop alone in the third.
        lanes = {name: {"step_seconds": seconds, "seconds": [seconds, 2 * seconds, late], "train_flops_per_token": flops}
                 for name, seconds, late, flops in (("decoder", 2.0, 2.0, 10), ("loop", 2.1, 9.0, 10), ("dreamer", 3.0, 3.0, 20))}
        loop, dreamer = architectures.rows(lanes)
        self.assertEqual((loop["over_promised"], loop["bound"]), (1.05, 1.03))
        self.assertEqual((dreamer["promised_seconds"], dreamer["over_promised"]), (4.0, 0.75))
        text = architectures.table([{"precision": "fp32", **loop}])
        self.assertIn("1.050 (at most 1.03 wanted)", text)


class EvalSpeed(unittest.TestCase):
    def test_programs_take_turns_and_the_first_round_does_not_count(self):
        asked = []

        def program(name, seconds):
            def work():
                asked.append(name)
                return {"seconds": seconds + asked.count(name)}
            return work

        seconds, last = eval_speed.in_turns(3, program("ours", 0), {"a": program("a", 10), "b": program("b", 20)})
        self.assertEqual(asked, ["b", "a", "ours", "ours", "a", "b"] * 2)
        self.assertEqual(seconds, {"ours": [2, 3, 4], "a": [12, 13, 14], "b": [22, 23, 24]})
        self.assertEqual(last["b"], {"seconds": 24})
        self.assertEqual(eval_speed.ratios(seconds, "a"), [6, 13 / 3, 3.5])

    def test_where_texts_part(self):
        self.assertEqual([eval_speed.first_difference([1, 2, 3], other) for other in ([1, 2, 3], [1, 9, 3], [9, 2, 3])], [3, 1, 0])

    def test_seconds_are_read_from_what_the_program_says(self):
        self.assertEqual(eval_speed.seconds_of("meristem: note: x\nseconds 1.250000\n"), 1.25)


@unittest.skipIf(importlib.util.find_spec("transformers") is None, "no transformers here")
class Peer(unittest.TestCase):
    TINY = ["--layers", "1", "--width", "32", "--inner", "64", "--heads", "2", "--kv-heads", "1", "--vocab", "64", "--sequence", "16",
            "--batch", "2"]

    def run_peer(self, *arguments, text=""):
        """In this process: transformers takes seconds to load."""
        import peer

        out = io.StringIO()
        with unittest.mock.patch("sys.stdin", io.StringIO(text)), contextlib.redirect_stdout(out):
            peer.main([*self.TINY, *arguments])
        return [json.loads(line) for line in out.getvalue().splitlines()]

    def test_it_answers_and_learns(self):
        lines = self.run_peer("--serve", text="step\n" * 20 + "quit\n")
        self.assertEqual(lines[0], {"ready": True, "parameters": 64 * 32 + 32 * 32 * 2 + 32 * 32 + 3 * 32 * 64 + 3 * 32})
        self.assertEqual(len(lines), 22)
        self.assertLess(lines[20]["loss"], lines[1]["loss"] - 0.1)
        self.assertGreater(lines[21]["peak_bytes"], 1 << 20)

    def test_it_times_itself(self):
        (line,) = self.run_peer("--steps", "2", "--warmup", "1", "--precision", "bf16")
        self.assertAlmostEqual(line["tokens_per_second"] * line["median_seconds"], 32, places=6)


if __name__ == "__main__":
    unittest.main()

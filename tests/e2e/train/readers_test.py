"""Commands that read a run while it trains: each checkpoint that they choose may be deleted before they have read it."""

import json
import signal
import sys
import tempfile
import time
import unittest
from pathlib import Path

import tiny_run

PROGRAM = sys.argv.pop(1)


class Live(unittest.TestCase):
    def test_every_reader_of_a_run_folder_finds_a_whole_checkpoint_while_the_run_rotates_them(self):
        with tempfile.TemporaryDirectory() as temporary:
            root = Path(temporary)
            config = tiny_run.write_config(root)
            folder = root / "runs" / "tiny"
            items = root / "items.jsonl"
            items.write_text(json.dumps({"context": [1, 2], "choices": [[3], [4, 5]]}) + "\n")
            trainer = tiny_run.start(PROGRAM, "train", config, "schedule.steps=100000", "checkpoint.every=1", "checkpoint.keep_last=1",
                                     "growth=null", "phases=null", "data.validation.every=0", "logging.tensorboard=false")
            try:
                while not tiny_run.published(folder):
                    self.assertIsNone(trainer.poll(), "ended before its first checkpoint")
                    time.sleep(0.01)
                seen = set()
                for number in range(2):
                    seen |= {path.name for path in tiny_run.published(folder)}
                    for words in (["inspect", folder], ["generate", folder, "--prompt-ids", "1,2", "--max-tokens", "2"],
                                  ["eval", folder, "--item-ids", items], ["export", folder, "--out", root / f"hf-{number}"],
                                  ["grow", folder, "--add", "2", "--out", root / f"grown-{number}"],
                                  ["plan", config, f"initial.checkpoint={folder}", "growth=null"]):
                        code, _, err = tiny_run.run(PROGRAM, *words)
                        self.assertEqual((code, "DAMAGED" in err), (0, False), f"{words[0]}: {err}")
                self.assertGreater(len(seen), 1, "the run did not go on beside its readers")
                self.assertIsNone(trainer.poll())
                # One that was named itself and is gone: one line, and what is wrong.
                code, _, err = tiny_run.run(PROGRAM, "inspect", folder / "checkpoints" / min(seen))
                self.assertEqual((code, len(err.strip().splitlines())), (2, 1), err)
            finally:
                trainer.send_signal(signal.SIGTERM)
                trainer.communicate(timeout=60)

    def test_of_two_commands_that_make_one_folder_one_does_and_the_other_says_so(self):
        with tempfile.TemporaryDirectory() as temporary:
            root = Path(temporary)
            code, _, err = tiny_run.run(PROGRAM, "train", tiny_run.write_config(root), "schedule={steps: 1}", "growth=null", "phases=null",
                                        "logging.tensorboard=false")
            self.assertEqual(code, 0, err)
            for number in range(2):
                for words in (["grow", root / "runs" / "tiny", "--add", "2"], ["export", root / "runs" / "tiny"]):
                    out = root / f"{words[0]}-{number}"
                    both = [tiny_run.start(PROGRAM, *words, "--out", out) for _ in range(2)]
                    said = [process.communicate(timeout=60)[1] for process in both]
                    self.assertEqual(sorted(process.returncode for process in both), [0, 2], said)
                    late = next(err for process, err in zip(both, said) if process.returncode == 2).strip().splitlines()
                    self.assertRegex(late[-1], f"^meristem: error: {out}: (a checkpoint )?exists")
                    self.assertEqual([path.name for path in root.glob(f"{out.name}*")], [out.name])
                    if words[0] == "grow":
                        self.assertIsNone(tiny_run.trouble_of(out))
                    else:
                        self.assertTrue((out / "config.json").exists() and (out / "model.safetensors").exists())


if __name__ == "__main__":
    unittest.main()

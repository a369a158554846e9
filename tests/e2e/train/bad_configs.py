"""Configs that must be refused before any work: exit code 2, with file, line and key path."""

import refusal


class Configs(refusal.Case):
    def case(self, old, new, *named):
        """`old` of the config is replaced by `new`; the line that `new` begins to differ in is the one to be named."""
        text = refusal.tiny_run.CONFIG.format(out=self.root / "runs", data=self.root / "data")
        with self.subTest(new):
            self.assertEqual(text.count(old), 1, old)
            at = text.index(old)
            self.config.write_text(text.replace(old, new))
            first = text.count("\n", 0, at) + 1
            said = self.refused(2, named, "train", self.config)
            lines = {f"{self.config}:{line}:" for line in range(first, first + new.count("\n") + 1)}
            self.assertTrue(any(line in said for line in lines), f"{said}\nnames none of {lines}")

    def test_unknown_keys(self):
        self.case("logging: {", "loging: {", "loging", "did you mean")
        self.case("width: 32", "widht: 32", "model.widht", "did you mean width")
        self.case("heads: 2", "heads: 2, dropout: 0.1", "model.attention.dropout")
        self.case("at_steps: [20, 40]", "at_steps: [20, 40], until_step: 3", "growth.schedule.until_step")
        self.case("sequence_length: 32", "sequence_length: 32\n  shuffle: true", "data.shuffle")
        self.case("path: {data}/one".format(data=self.root / "data"), "path: one, weight: 1", "data.sources.one.weight")
        self.case("name: first,", "name: first, lr: 1,", "phases[0].lr")
        self.case("warmup: 5", "warm_up: 5", "schedule.warm_up", "did you mean warmup")
        self.case("keep_last: 2", "keep_lats: 2", "checkpoint.keep_lats", "did you mean keep_last")
        self.case("optimizer: {lr: 3e-3}", "optimizer: {lr: 3e-3, momentum: 0.9}", "optimizer.momentum")

    def test_duplicate_keys(self):
        self.case("logging: {", "run: {name: b}\nlogging: {", "run", "duplicate")
        self.case("width: 32", "width: 32, width: 64", "width", "duplicate")
        self.case("heads: 2", "heads: 2, heads: 4", "heads", "duplicate")
        self.case("from_blocks: 2", "from_blocks: 2, from_blocks: 2", "from_blocks", "duplicate")
        self.case("sources: {one:", "sources: {one: {path: x}, one:", "one", "duplicate")
        self.case("mixture: {one: 0.7", "mixture: {one: 0.7, one: 0.7", "one", "duplicate")
        self.case("warmup: 5", "warmup: 5, steps: 60", "steps", "duplicate")
        self.case("every: 1,", "every: 1, \"every\": 2,", "every", "duplicate")
        self.case("optimizer: {lr: 3e-3}", "optimizer: {lr: 3e-3}\noptimizer: {lr: 3e-3}", "optimizer", "duplicate")

    def test_keys_that_contradict(self):
        self.case("kind: at_steps", "kind: prop", "growth.schedule.at_steps")
        self.case("from_blocks: 2", "from_blocks: 6", "growth.from_blocks")
        self.case("add_blocks: 2", "add_blocks: 3", "growth.add_blocks")
        self.case("kv_heads: 1", "kv_heads: 3", "model.attention.kv_heads")
        self.case("warmup: 5", "warmup: 5, decay: {kind: none, from_step: 50}", "schedule.decay")
        self.case("from_step: 40", "from_step: 60", "phases[1].from_step")
        self.case("name: second", "name: first", "phases[1].name")
        self.case("one: 0.2, two: 0.8", "three: 1", "phases[1].mixture.three")
        self.case("one: 0.2, two: 0.8", "one: 0, two: 0", "phases[1].mixture")
        self.case("blocks: 6", 'blocks: 6, depth_plan: "0-4"', "model.depth_plan")
        self.case("at_steps: [20, 40]", "at_steps: [20, 60]", "growth.schedule.at_steps")
        self.case("checkpoint: {", "precision: {compute: fp32, residual: bf16}\ncheckpoint: {", "precision.residual")

    def test_numbers_that_are_none_or_out_of_range(self):
        self.case("seed: 3", "seed: 010", "run.seed")
        self.case("seed: 3", "seed: -1", "run.seed")
        self.case("seed: 3", "seed: 99999999999999999999", "run.seed")
        self.case("width: 32", "width: 32.5", "model.width")
        self.case("width: 32", "width: 0", "model.width")
        self.case("width: 32", "width: 3_2", "model.width")
        self.case("lr: 3e-3", "lr: .nan", "optimizer.lr")
        self.case("lr: 3e-3", "lr: .inf", "optimizer.lr")
        self.case("lr: 3e-3", "lr: 1e400", "optimizer.lr")
        self.case("lr: 3e-3", "lr: 0", "optimizer.lr")
        self.case("lr: 3e-3", "lr: 3e-3, betas: [0.9, 1.0]", "optimizer.betas")
        self.case("lr: 3e-3", "lr: 3e-3, betas: [0.9]", "optimizer.betas")
        self.case("one: 0.7", "one: -0.7", "phases[0].mixture.one")

    def test_wrong_types(self):
        self.case("width: 32", "width: wide", "model.width")
        self.case("width: 32", "width: \"32\"", "model.width")
        self.case("width: 32", "width: {a: 1}", "model.width")
        self.case("width: 32", "width: true", "model.width")
        self.case("width: 32", "width: null", "model.width")
        self.case("optimizer: {lr: 3e-3}", "optimizer: adamw", "optimizer")
        self.case("seed: 3", "seed: 3, deterministic: 1", "run.deterministic")
        self.case("keep_last: 2", "keep_last: 2, async: maybe", "checkpoint.async")
        self.case("mixture: {one: 0.7, two: 0.3}", "mixture: [0.7, 0.3]", "phases[0].mixture")
        self.case("operator: lidas", "operator: grow", "growth.operator", "midas")
        self.case("name: tiny", "name: a/b", "run.name")

    def test_texts_that_are_no_config(self):
        for text in ("", "just a word", "- a\n- list", "a: [1", "a: &x 1\nb: *x", "a: !!python/object 1", "run: {name: x}\n---\nrun: {}", "\x00", "{" * 200,
                     "run: \"\xff"):
            with self.subTest(text[:20]):
                self.config.write_bytes(text.encode("latin-1"))
                self.refused(2, str(self.config), "train", self.config)

    def test_commands_and_overrides(self):
        config = self.config
        self.refused(2, "none.yaml", "train", self.root / "none.yaml")
        self.refused(2, str(self.root), "train", self.root)
        self.refused(2, ["model.widht", "did you mean width"], "train", config, "model.widht=3")
        self.refused(2, "model.width", "train", config, "model.width=x")
        self.refused(2, "phases", "train", config, "phases.7.name=x")
        self.refused(2, "nonsense", "train", config, "nonsense")
        self.refused(2, "=3", "train", config, "=3")
        self.refused(2, "--resum", "train", config, "--resum", "auto")
        self.refused(2, "help", "tarin", config)
        self.refused(2, "help")
        self.refused(2, str(self.root / "none"), "train", config, "--resume", self.root / "none")
        self.refused(2, str(self.root / "none"), "train", config, "--branch", self.root / "none")
        self.refused(2, str(self.root / "none"), "inspect", self.root / "none")
        self.refused(2, str(self.root / "none"), "grow", self.root / "none", "--out", self.root / "grown")
        self.refused(2, str(self.root / "none"), "generate", self.root / "none", "--prompt-ids", "1")

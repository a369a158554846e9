"""Configs that must be refused before any work: exit code 2, one line with file, line and key path, nothing written. The rules themselves are
tested in tests/unit/config."""

import refusal


class Configs(refusal.Case):
    def case(self, old, new, line, *named):
        """`old` of the config is replaced by `new`, and that line is named."""
        text = refusal.tiny_run.CONFIG.format(out=self.root / "runs", data=self.root / "data")
        with self.subTest(new):
            self.assertEqual(text.count(old), 1, old)
            self.config.write_text(text.replace(old, new))
            self.refused(2, [f"{self.config}:{line}:", *named], "train", self.config)

    def test_a_bad_key_is_named_with_its_line(self):
        self.case("width: 32", "widht: 32", 2, "model.widht", "did you mean width")
        self.case("at_steps: [20, 40]", "at_steps: [20, 60]", 3, "growth.schedule.at_steps")
        self.case("from_step: 40", "from_step: 40, from_step: 41", 10, "from_step", "duplicate")

    def test_texts_that_are_no_config(self):
        for text in ("", "a: [1", "\x00", "run: \"\xff"):
            with self.subTest(text):
                self.config.write_bytes(text.encode("latin-1"))
                self.refused(2, str(self.config), "train", self.config)

    def test_commands_and_overrides(self):
        config = self.config
        self.refused(2, "none.yaml", "train", self.root / "none.yaml")
        self.refused(2, str(self.root), "train", self.root)
        self.refused(2, ["model.widht", "did you mean width"], "train", config, "model.widht=3")
        self.refused(2, "nonsense", "train", config, "nonsense")
        self.refused(2, "--resum", "train", config, "--resum", "auto")
        self.refused(2, "help", "tarin", config)
        self.refused(2, "help")
        self.refused(2, str(self.root / "none"), "train", config, "--resume", self.root / "none")
        self.refused(2, str(self.root / "none"), "train", config, "--branch", self.root / "none")
        self.refused(2, str(self.root / "none"), "inspect", self.root / "none")
        self.refused(2, str(self.root / "none"), "grow", self.root / "none", "--out", self.root / "grown")
        self.refused(2, str(self.root / "none"), "generate", self.root / "none", "--prompt-ids", "1")

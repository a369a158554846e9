"""Items as token ids: those of context and choice encoded together, whatever the tokenizer cuts by."""

import random
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "scripts" / "python"))

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers  # noqa: E402

from command import UserError  # noqa: E402
from evaluation import items, primitives  # noqa: E402

TEXTS = ["To be, or not to be, that's the question: we'll see 12345 times.\n\nIt'd be  so\t\tgood!!\r\n", "x = 1\ny = x\n\nz=___. -> 25", "naïve café — “ok”  …\n"] * 3


def tokenizer(cutter, normalizer=None, special=("<|endoftext|>",), whole=True):
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.normalizer = cutter, normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet() if whole else list("abcdefg ")
    made.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=320, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False))
    return made


def by_bytes(regex=None, **options):
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex is None, **options)
    return last if regex is None else pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(regex), "isolated"), last])


KNOWN = {"bytes": tokenizer(by_bytes()), "Llama 3": tokenizer(by_bytes(items.CUTS[1])), "Qwen 2": tokenizer(by_bytes(items.CUTS[2]), normalizers.NFC()),
         "GPT-2 as a split": tokenizer(by_bytes(items.CUTS[0])),
         "digits": tokenizer(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), by_bytes()]))}
OTHERS = {"a blank before the text": tokenizer(pre_tokenizers.ByteLevel(add_prefix_space=True)), "another cut": tokenizer(by_bytes(r"\w+|\W")),
          "one piece": tokenizer(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)), "lower case": tokenizer(by_bytes(), normalizers.Lowercase()),
          "a token that eats blanks": tokenizer(by_bytes(), special=(AddedToken("<s>", rstrip=True),)), "not all bytes": tokenizer(by_bytes(), whole=False)}


def random_text(draw, pieces):
    words = ["To", " be", " or", "that's", "'", "'l", "'ll", "ll", " ", "  ", "\n", "\n\n", "\t", "\r\n", "1", "12", "345", "x=", "___", ".", "!!", " ->", "é", "ï", "…", "<|endof", "text|>",
             "<|endoftext|>", "<", "e\u0301"]
    return "".join(draw.choice(words) for _ in range(pieces))


def by_definition(made, item):
    """Everything encoded whole."""
    ids = lambda text: made.encode(text, add_special_tokens=False).ids  # noqa: E731
    return items.bordered(made, item, "here", [], ids(item.context.rstrip()), [ids(item.context + choice) for choice in item.choices], (), (0,))


class Items(unittest.TestCase):
    def test_ids_are_those_of_whole_texts(self):
        draw = random.Random(1)
        for name, made in {**KNOWN, **OTHERS}.items():
            some = [primitives.Item(random_text(draw, draw.randrange(30)), tuple(random_text(draw, draw.randrange(1, 5)) for _ in range(3)), 0) for _ in range(400)]
            for special in (False, True):
                made.encode_special_tokens = special
                with self.subTest(name, special=special):
                    for item, found in zip(some, items.encoded_items(made, some, str, (), (0,)), strict=True):
                        self.assertEqual(found, by_definition(made, item), item)

    def test_which_tokenizers_encode_a_context_once(self):
        for name, made in KNOWN.items():
            self.assertTrue(items.Pieces(made).known, name)
        for name, made in OTHERS.items():
            self.assertFalse(items.Pieces(made).known, name)

    def test_a_context_is_encoded_again_only_at_its_end(self):
        for name, made in KNOWN.items():
            context = "\n\n".join(TEXTS[:2]) + " To be"
            kept, rest = items.Pieces(made).tail(context, made.encode(context, add_special_tokens=False))
            self.assertGreater(kept, 40, name)
            self.assertTrue(4 <= len(rest) < 40 and context.endswith(rest), (name, rest))

    def test_a_text_that_the_tokenizer_fails_on_is_named(self):
        made = Tokenizer(models.WordLevel({"a": 0}, unk_token="<unk>"))  # which it does not have
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        some = [primitives.Item("a", (" a", " a"), 0), primitives.Item("a", (" b", " a"), 0)]
        with self.assertRaises(UserError) as caught:
            list(items.encoded_items(made, some, lambda number: f"f.jsonl:{number + 1}"))
        self.assertIn("f.jsonl:2: the tokenizer fails", str(caught.exception))


if __name__ == "__main__":
    unittest.main(verbosity=2)

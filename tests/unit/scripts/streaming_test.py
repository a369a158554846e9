"""Text that is streamed is the text of all tokens at once, for a tokenizer of the Llama-2 kind (byte fallback, a first blank that is stripped) and a byte-level one."""

import random
import sys
import unittest
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "scripts" / "python"))
from text.streaming import TextStream  # noqa: E402

WORDS = ["▁be", "▁To", "To", "▁", "é", "a", "▁a", "or"]


def llama_2():
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    vocabulary |= {word: 259 + place for place, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return tokenizer


def byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(["To be, naïve café — 한국어 🙂\n"] * 20, trainer)
    return tokenizer


def streamed(tokenizer, prompt, answer):
    stream = TextStream(tokenizer, prompt)
    return [stream.step(token) for token in answer] + [stream.flush()]


class StreamingTest(unittest.TestCase):
    def test_all_pieces_are_the_whole(self):
        draw = random.Random(1)
        for tokenizer in (llama_2(), byte_level()):
            euro = [tokenizer.token_to_id(token) for token in ("<0xE2>", "<0x82>", "<0xAC>")] if tokenizer.token_to_id("<0xE2>") else tokenizer.encode("€").ids
            usual = tokenizer.encode("To be é a").ids
            for _ in range(400):
                prompt = [draw.choice([0, *usual]) for _ in range(draw.randrange(1, 5))]
                answer = []
                for _ in range(draw.randrange(60)):
                    answer += draw.choice([euro, [draw.randrange(tokenizer.get_vocab_size())], [draw.choice(usual)], [draw.choice(usual)]])
                text = tokenizer.decode(prompt) + "".join(streamed(tokenizer, prompt, answer))
                if tokenizer.decode(prompt + answer).startswith(tokenizer.decode(prompt)):
                    self.assertEqual(text, tokenizer.decode(prompt + answer), (prompt, answer))

    def test_the_blank_behind_the_prompt_stays(self):
        tokenizer = llama_2()
        ids = {word: tokenizer.token_to_id(word) for word in WORDS}
        self.assertEqual(streamed(tokenizer, [ids["To"]], [ids["▁be"], ids["▁To"]]), [" be", " To", ""])
        self.assertEqual("".join(streamed(tokenizer, [1], [ids["▁be"], ids["▁To"]])), "be To")  # nothing stands before it

    def test_a_character_comes_whole_and_a_broken_one_comes_at_the_end(self):
        tokenizer = llama_2()
        euro = [tokenizer.token_to_id(token) for token in ("<0xE2>", "<0x82>", "<0xAC>")]
        word = tokenizer.token_to_id("▁be")
        self.assertEqual(streamed(tokenizer, [word], [*euro, word]), ["", "", "", "€ be", ""])
        self.assertEqual(streamed(tokenizer, [word], euro[:2]), ["", "", "\ufffd\ufffd"])
        level = byte_level()
        tail = level.encode("한").ids[:1]
        self.assertEqual("".join(streamed(level, level.encode("To").ids, tail)), level.decode(tail))

    def test_a_piece_comes_as_soon_as_it_is_certain(self):
        level = byte_level()
        ids = level.encode(" be, naïve café").ids
        pieces = streamed(level, level.encode("To").ids, ids)
        self.assertEqual(pieces[-1], "")
        self.assertGreater(sum(piece != "" for piece in pieces), len(ids) // 2)


if __name__ == "__main__":
    unittest.main(verbosity=2)

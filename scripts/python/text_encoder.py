"""Plain text to token ids, each text followed by the end-of-text token."""

from pathlib import Path

import numpy as np

from encoded import Encoded
from tokenizer_file import load_tokenizer


def make_encoder(tokenizer_path, end, dtype):
    tokenizer, _ = load_tokenizer(Path(tokenizer_path))

    def encode(texts):
        ids, lengths = [], np.empty(len(texts), np.int32)
        for number, encoding in enumerate(tokenizer.encode_batch_fast(texts, add_special_tokens=False)):
            one = encoding.ids
            one.append(end)
            lengths[number] = len(one)
            ids.append(np.array(one, dtype))
        return Encoded(np.concatenate(ids).tobytes(), lengths.tobytes(), sum(len(text.encode()) for text in texts))

    return encode

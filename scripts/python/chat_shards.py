"""The mask of a token shard, for reading: PREFIX.mask has one byte a token, 1 where the token is trained on. The manifest describes and hashes it."""

import os

import numpy as np

from command_errors import DamagedError, UserError
from token_shards import Shard, xxh3_file


class Mask:
    """The mask of a Shard, checked as far as its size; None for a shard without one."""

    @staticmethod
    def of(shard: Shard):
        path = shard.prefix + ".mask"
        said = ((shard.manifest or {}).get("files") or {}).get("mask")
        if not os.path.exists(path):
            if said is not None:
                raise UserError(f"{path}: no such file, but {shard.json_path} describes it")
            return None
        if shard.manifest is not None and said is None:
            raise DamagedError(f"{path}: {shard.json_path} knows nothing of a mask")
        size = os.path.getsize(path)
        if size != shard.tokens.size:
            raise DamagedError(f"{path}: byte {size}: a mask of {size} bytes for {shard.tokens.size} tokens, one byte each")
        return Mask(path, size, said)

    def __init__(self, path, size, said):
        self.path, self.said = path, said
        self.bytes = np.memmap(path, np.uint8, "r", 0, (size,)) if size else np.zeros(0, np.uint8)

    def verify(self, trained_tokens=None):
        """Its hash, its values, and how many of them are 1."""
        if self.said is not None and xxh3_file(self.path) != self.said.get("xxh3"):
            raise DamagedError(f"{self.path}: xxh3 {xxh3_file(self.path)}, the manifest says {self.said.get('xxh3')}")
        wrong = self.bytes > 1
        if wrong.any():
            at = int(np.argmax(wrong))
            raise DamagedError(f"{self.path}: byte {at}: found {self.bytes[at]}, a mask holds 0 and 1")
        trained = int(np.count_nonzero(self.bytes))
        if trained_tokens is not None and trained != trained_tokens:
            raise DamagedError(f"{self.path}: trains on {trained} tokens, the manifest says {trained_tokens}")
        return trained

"""A token shard with a mask: PREFIX.mask has one byte a token, 1 where the token is trained on. The manifest describes and hashes it."""

import os
from pathlib import Path

import numpy as np

from command_errors import DamagedError, UserError
from token_shards import Shard, Writer, xxh3_file


class MaskedWriter(Writer):
    """As Writer; add() takes a mask of the same length. The four files appear together."""

    def __init__(self, prefix, *arguments, force=False, **options):
        if os.path.exists(f"{prefix}.mask") and not force:
            raise UserError(f"{prefix}.mask: exists already; --force replaces it")
        super().__init__(prefix, *arguments, force=force, **options)
        self.mask = open(self._pending(".mask"), "wb")
        self.trained = 0

    def add(self, ids, mask):
        if len(ids) != len(mask):
            raise ValueError(f"{len(ids)} ids, a mask of {len(mask)}")
        super().add(ids)
        self.mask.write(np.asarray(mask, np.uint8).tobytes())
        self.trained += int(np.count_nonzero(mask))

    def __exit__(self, kind, error, trace):
        try:
            return super().__exit__(kind, error, trace)
        finally:
            self.mask.close()
            Path(self._pending(".mask")).unlink(missing_ok=True)

    def _manifest(self):
        manifest = super()._manifest()
        path = self._pending(".mask")
        manifest["files"]["mask"] = {"bytes": os.path.getsize(path), "xxh3": xxh3_file(path)}
        return {**manifest, "format_version": 2, "trained_tokens": self.trained}

    def _publish(self):
        self.mask.flush()
        os.fsync(self.mask.fileno())
        # A shard whose mask is missing is refused, one without its manifest is not: the mask's name comes last of all that counts.
        super()._publish()
        os.replace(self._pending(".mask"), self.prefix + ".mask")


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

"""What passes between the process that reads and writes and those that encode: a recipe for the encoder, and what it made of a batch."""

import importlib
from dataclasses import dataclass, field


@dataclass
class Recipe:
    """`make()` gives module.make_encoder(**settings): a function of a list of items that returns Encoded. Settings can be pickled."""

    module: str
    settings: dict

    def make(self):
        return importlib.import_module(self.module).make_encoder(**self.settings)


@dataclass
class Encoded:
    ids: bytes = b""        # of all documents, in the shard's type of ids
    lengths: bytes = b""    # tokens of each, int32
    text_bytes: int = 0
    mask: bytes = b""       # a byte a token, in masked shards
    faults: list = field(default_factory=list)    # (number of the item, place, kind, what): items that are bad, which end the job or are skipped
    left_out: list = field(default_factory=list)  # (kind, what): items that are no use or were cut, to be judged in the end
    counts: dict = field(default_factory=dict)    # numbers to add up over the batches
    longest: int = 0        # tokens of a document

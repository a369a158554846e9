"""Text on its way to token shards: files, documents, tokenizers, shards."""

"""Conversations: records, templates, masked shards, a session in the terminal."""

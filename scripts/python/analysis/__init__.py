"""Signatures along the depth: the analyze command around the program, and its page."""

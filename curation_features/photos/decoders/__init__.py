"""Decoders: a reader per format, from bytes to stored pixels."""

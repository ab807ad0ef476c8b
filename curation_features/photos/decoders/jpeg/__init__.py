"""JPEG: decoding, damage, metadata."""

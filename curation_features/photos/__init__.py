"""Photos: reading of allowed files, decoding, limits and thumbnails."""

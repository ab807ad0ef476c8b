"""Photos: reading of allowed files, decoding to RGB, limits on decoding, and thumbnails."""

"""Photos: which files may be read, how bytes become RGB pixels, limits on decoding, thumbnails."""

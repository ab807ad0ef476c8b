"""EXIF: metadata blocks of every format, and the fields of an artifact."""

"""TIFF: layout, samples, colours."""

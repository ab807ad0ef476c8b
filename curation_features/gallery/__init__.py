"""The library page: all photos of all batches in a browser, served on this machine only."""

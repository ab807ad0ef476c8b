"""Ingest of photo folders: find files, read metadata, write a manifest."""

"""From a folder of photos to a manifest: files found, metadata read, content identified."""

"""Search over the photos of all batches: by words, by example and by numbers."""

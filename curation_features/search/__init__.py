"""Search over the photos of all batches: by words, by example and by numbers."""

from curation_features.search.forget import forget

__all__ = ["forget"]

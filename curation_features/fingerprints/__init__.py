"""Fingerprints: data that tells, without weights, whether two photos show one picture or one moment."""

from curation_features.fingerprints.fingerprint import Fingerprint, Keypoints

__all__ = ["Fingerprint", "Keypoints"]

"""Fingerprints: data that tells, without weights, whether two photos show one picture or one moment.

`measure.measure` makes one from pixels; it loads OpenCV, so it is not imported here.
"""

from curation_features.fingerprints.encoding import from_bytes, hashes_of, to_bytes
from curation_features.fingerprints.fingerprint import Fingerprint, Keypoints

__all__ = ["Fingerprint", "Keypoints", "from_bytes", "hashes_of", "to_bytes"]

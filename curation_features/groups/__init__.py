"""Groups: copies of one picture, bursts of one moment, sets that belong together, and the best photo of each."""

from curation_features.groups.photos import Exposure, Group, Kind, Member, Moment, Photo, PhotoSet

__all__ = ["Exposure", "Group", "Kind", "Member", "Moment", "Photo", "PhotoSet"]

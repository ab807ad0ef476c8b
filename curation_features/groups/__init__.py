"""Groups: copies of one picture, bursts of one moment, sets that belong together, and the best photo of each.

`grouping.group_photos` finds them; it loads OpenCV, so it is not imported here.
"""

from curation_features.groups.photos import Exposure, Group, Kind, Member, Moment, Photo, PhotoSet

__all__ = ["Exposure", "Group", "Kind", "Member", "Moment", "Photo", "PhotoSet"]

"""The inbox: folders where manifests are submitted, and how the sensor takes them."""

"""The folder where manifests are handed in, and how the sensor takes them."""

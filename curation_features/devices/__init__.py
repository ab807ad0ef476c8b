"""Which device computes, and host-to-device transfer."""

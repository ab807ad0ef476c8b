"""Device selection, fallback between devices, and host-to-device transfer."""

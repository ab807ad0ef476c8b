"""The contact sheet: a batch as one HTML page."""

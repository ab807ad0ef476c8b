"""Signals: measurements in physical units that one can decide on, one subject per module, and flags."""

"""Child processes that decode."""

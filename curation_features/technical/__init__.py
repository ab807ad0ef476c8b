"""Technical quality: one metric per module, and the analyzer that combines them."""

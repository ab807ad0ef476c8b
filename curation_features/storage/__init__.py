"""File formats: artifacts, tables, embeddings, the cache and small journals."""

"""Everything that owns a file format: features, tables, embeddings, the cache and small journals."""

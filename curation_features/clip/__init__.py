"""CLIP labels: vocabulary, model, label embeddings and zero-shot scores."""

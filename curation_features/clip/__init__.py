"""CLIP labels: vocabulary, model, label vectors and zero-shot scores."""

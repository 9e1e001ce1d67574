"""Inference: ask a model, read its numbers."""

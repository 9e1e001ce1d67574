"""Evaluation: chosen points, metrics, a resumable run."""

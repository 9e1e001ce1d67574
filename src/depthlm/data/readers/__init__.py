"""Readers of raw data sets: one file each, `base` for what they share."""

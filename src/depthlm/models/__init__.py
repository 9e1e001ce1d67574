"""Loading and saving checkpoints of every model family, and the embedded model."""

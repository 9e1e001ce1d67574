"""Text supervised fine-tuning: recipes, packed rows, the trainer."""

"""Ablation studies: many arms, each a recipe with a few keys changed, from one base, with several seeds."""

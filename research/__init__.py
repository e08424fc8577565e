"""Polymath: one small JAX/Flax codebase that learns to see, hear, read and translate."""

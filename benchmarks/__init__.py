"""Measurements of lowland in four rooms: speed, proof, quality, guides. README.md has the list."""

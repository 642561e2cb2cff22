"""Combine energies, edit and predict with them."""

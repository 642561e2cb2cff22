"""Composition of energies by AND, OR and NOT; guidance, editing and conditional sampling."""

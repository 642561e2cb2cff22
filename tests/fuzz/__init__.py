"""Hostile inputs by the thousand: every outcome is the right value or an error in three clauses."""

"""Detect outliers with an energy: scores and calibrated verdicts."""

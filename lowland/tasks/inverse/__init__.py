"""Restore what was measured badly: operators, likelihoods, posterior draws, MAP estimates."""

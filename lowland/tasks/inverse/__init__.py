"""Inverse problems: measurement operators, likelihoods, posterior samples and MAP estimates."""

"""Inverse problems: measurement operators, likelihoods, posterior samples and MAP estimates."""

from lowland.tasks.inverse.map import map_estimate
from lowland.tasks.inverse.operators import Operator
from lowland.tasks.inverse.posterior import Restoration
from lowland.tasks.inverse.restore import restore
from lowland.tasks.inverse.split_gibbs import split_gibbs_sample

__all__ = ["Operator", "Restoration", "map_estimate", "restore", "split_gibbs_sample"]

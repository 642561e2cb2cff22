"""log Z between two ends, by annealed importance sampling in both directions, or exactly."""

from lowland.metrics.log_z.bracket import log_z
from lowland.metrics.log_z.certificate import Direction, LogZ, bennett

__all__ = ["Direction", "LogZ", "bennett", "log_z"]

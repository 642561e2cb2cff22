"""log Z between two ends, by annealed importance sampling in both directions, or exactly."""

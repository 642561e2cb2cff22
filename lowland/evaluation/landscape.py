"""Energy over the plane, for two-dimensional data."""

import torch

from lowland.energy import value_and_score
from lowland.evaluation.findings import Findings
from lowland.trained import Model
from lowland.trained.placement import compute_energies, place_points


def measure_landscape(model: Model, found: Findings) -> None:
    """Compute the energy on a grid and the field −∇E on a coarser one, for events in the plane."""
    x = model.data.train.x
    low, high = x.min(0).values - 0.75, x.max(0).values + 0.75
    fine, coarse = (
        [
            torch.linspace(float(a), float(b), n, dtype=x.dtype)
            for a, b in zip(low, high, strict=True)
        ]
        for n in (121, 22)
    )
    points = [
        torch.stack(torch.meshgrid(*axes, indexing="xy"), -1).view(-1, 2) for axes in (fine, coarse)
    ]
    _, field_vectors = value_and_score(model.marginal, place_points(model, points[1]))
    found.arrays |= {
        "landscape/x": fine[0],
        "landscape/y": fine[1],
        "landscape/energy": compute_energies(model, points[0]).view(121, 121),
        "field/points": points[1],
        "field/vectors": field_vectors,
    }

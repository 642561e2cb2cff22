"""Normalizing flows of zuko as base measures: exact draws, exact log Z = 0, and close to the
data.
"""

from typing import Any

import torch
from torch import Tensor

from lowland.domain import real
from lowland.nets.noise_models import FlowNoise


def fit_flow(
    data: Tensor,
    *,
    flow: Any = None,
    steps: int = 500,
    batch: int = 256,
    generator: torch.Generator,
) -> FlowNoise:
    """A flow fitted to vectors (N, d) by maximum likelihood (Adam, rate 1e-3): zuko's MAF of three
    transforms unless given.

    Pass it to `log_z(energy, base=...)`; fit it to other points than the draws from which the
    reverse run starts. Raises ImportError without zuko (the extra `zuko`), ValueError for data that
    are not vectors on the real line. Source: zuko, https://github.com/probabilists/zuko

    >>> g = torch.Generator().manual_seed(0)
    >>> base = fit_flow(torch.randn(200, 2, generator=g), steps=20, generator=g)
    >>> base.draw(5, g).shape, base.log_z
    (torch.Size([5, 2]), 0.0)
    """
    try:
        import zuko
    except ImportError as error:
        raise ImportError(
            "zuko is not installed; fit_flow trains one of its flows; run pip install "
            "'lowland[zuko]'"
        ) from error
    if data.dim() != 2 or len(data) < 2 or not data.is_floating_point():
        raise ValueError(
            f"data of shape {tuple(data.shape)} came; a flow takes vectors (N, d) with N ≥ 2; "
            "flatten them"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(
            int(torch.randint(2**31, (), generator=generator, device=generator.device))
        )
        flow = (
            zuko.flows.MAF(data.shape[1], transforms=3, hidden_features=(64, 64))
            if flow is None
            else flow
        )
    base = FlowNoise(real(data.shape[1]), data, flow=flow)
    optimizer = torch.optim.Adam(base.parameters(), lr=1e-3)
    for _ in range(steps):
        chosen = torch.randint(
            len(data), (min(batch, len(data)),), generator=generator, device=data.device
        )
        loss = base(data[chosen]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return base.eval().requires_grad_(False)

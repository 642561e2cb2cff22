"""Normalizing flows of zuko as base measures with exact draws and exact log Z = 0."""

from typing import Any

import torch
from torch import Tensor

from lowland.domain import real
from lowland.energy import view_module
from lowland.extras import import_extra
from lowland.nets.noise_models import FlowNoise


def fit_flow(
    data: Tensor,
    *,
    flow: Any = None,
    steps: int = 500,
    batch: int = 256,
    generator: torch.Generator,
) -> FlowNoise:
    """Fit a flow to vectors (N, d) by maximum likelihood (Adam, rate 1e-3): zuko's MAF of three
    transforms unless given.

    Pass it to `log_z(energy, base=...)`; fit it to other points than the draws from which the
    reverse run starts. Raises ImportError without zuko (the extra `zuko`), ValueError for data that
    are not vectors on the real line. Source: zuko, https://github.com/probabilists/zuko

    >>> g = torch.Generator().manual_seed(0)
    >>> base = fit_flow(torch.randn(200, 2, generator=g), steps=20, generator=g)
    >>> base.draw(5, g).shape, base.log_z
    (torch.Size([5, 2]), 0.0)
    """
    zuko = import_extra("zuko")
    if data.dim() != 2 or len(data) < 2 or not data.is_floating_point():
        raise ValueError(
            f"data of shape {tuple(data.shape)} came; a flow takes vectors (N, d) with N ≥ 2; "
            "flatten them"
        )
    seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    if flow is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            flow = zuko.flows.MAF(data.shape[1], transforms=3, hidden_features=(64, 64))
    base = FlowNoise(real(data.shape[1]), data, flow=flow)
    optimizer = torch.optim.Adam(base.parameters(), lr=1e-3)
    size = (min(batch, len(data)),)
    for _ in range(steps):
        chosen = torch.randint(len(data), size, generator=generator, device=data.device)
        loss = base(data[chosen]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return view_module(base, constant=True, training=False)  # the flow stays trainable

"""Normalizing flows of zuko as base measures: exact draws, exact log Z = 0, and close to the data."""

from typing import Any

import torch
from torch import Tensor

from lowland.domain import real
from lowland.energy import Energy


class FlowBase(Energy):
    """E(x) = −log p(x) of a zuko flow over standardised vectors: log Z = 0, draws by running the flow backwards.

    flow: any unconditional zuko flow over d numbers; centre, width: (d,), its numbers are (x − centre) / width.
    Source: zuko, https://github.com/probabilists/zuko

    >>> import torch
    >>> g = torch.Generator().manual_seed(0)
    >>> base = fit_flow(torch.randn(200, 2, generator=g), steps=20, generator=g)
    >>> base.draw(5, g).shape, base.log_z
    (torch.Size([5, 2]), 0.0)
    """

    log_z = 0.0
    centre: Tensor
    width: Tensor

    def __init__(self, flow: Any, centre: Tensor, width: Tensor) -> None:
        super().__init__(real(len(centre)))
        self.flow = flow
        self.register_buffer("centre", centre)
        self.register_buffer("width", width)

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        return self.width.log().sum() - self.flow().log_prob((x - self.centre) / self.width)

    @torch.no_grad()
    def draw(self, count: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        """Exact draws (count, d): standard normal numbers through the inverse of the flow."""
        z = torch.randn(count, len(self.centre), generator=generator, device=self.centre.device, dtype=self.centre.dtype)
        return (self.centre + self.width * self.flow().transform.inv(z)).to(dtype)


def fit_flow(data: Tensor, *, flow: Any = None, steps: int = 500, batch: int = 256, generator: torch.Generator) -> FlowBase:
    """A flow fitted to vectors (N, d) by maximum likelihood (Adam, rate 1e-3): zuko's MAF of three transforms unless given.

    Pass it to `log_z(energy, base=...)`; fit it to other points than the draws from which the reverse run starts.
    Raises ImportError without zuko (the extra `zuko`), ValueError for data that are not vectors on the real line.
    """
    try:
        import zuko
    except ImportError as error:
        raise ImportError("zuko is not installed; fit_flow trains one of its flows; run pip install 'lowland[zuko]'") from error
    if data.dim() != 2 or len(data) < 2 or not data.is_floating_point():
        raise ValueError(f"data of shape {tuple(data.shape)} came; a flow takes vectors (N, d) with N ≥ 2; flatten them")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator, device=generator.device)))
        flow = zuko.flows.MAF(data.shape[1], transforms=3, hidden_features=(64, 64)) if flow is None else flow
    base = FlowBase(flow.to(data.device, data.dtype), data.mean(0), data.std(0).clamp(min=1e-6))
    optimizer = torch.optim.Adam(base.parameters(), lr=1e-3)
    for _ in range(steps):
        chosen = torch.randint(len(data), (min(batch, len(data)),), generator=generator, device=data.device)
        loss = base(data[chosen]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return base.eval().requires_grad_(False)

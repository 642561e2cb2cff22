"""Noise distributions of noise-contrastive objectives: exact draws and densities, a learned log Z.

A noise distribution is an energy with `log_z` and `draw(count, generator, dtype)`, as all of
`lowland.targets` are; log q(x) = −E_q(x) − log_z. Here are the two that targets do not have: normal
numbers cut off at the walls of a box, and a flow that learns.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowland.devices import has_float64, to_float64
from lowland.domain import Domain, real
from lowland.energy import ConditionLike, Energy
from lowland.energy.scales import measure_columns
from lowland.extras import import_extra
from lowland.nets.boltzmann.units import HALF_LOG_TAU


class NoisePartner(nn.Module):
    """A noise distribution q, and the learned log Z of the energy that is contrasted with it.

    law: q, an energy with `log_z` and `draw`; log_z: where the learned number starts.

    >>> import torch
    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.rand(100, 2, generator=g)
    >>> partner = NoisePartner(Truncated(Domain("box", (2,), 0.0, 1.0), x))
    >>> partner.law.draw(3, g).shape, partner.log_z.item()
    (torch.Size([3, 2]), 0.0)
    """

    def __init__(self, law: Any, log_z: Tensor | None = None) -> None:
        super().__init__()
        self.law = law
        start = torch.zeros(()) if log_z is None else log_z
        self.log_z = nn.Parameter(start.detach().clone())

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw noise (count, *event), where chains of the trained energy may start."""
        return self.law.draw(count, generator, dtype=self.log_z.dtype)


class Truncated(Energy):
    """Independent normal numbers cut off at the walls of a box.

        E(x) = Σ_i [½ ((x_i − m_i) / s_i)² + log s_i + log P_i + ½ log 2π],    log Z = 0

    P_i is the probability that N(m_i, s_i²) lies between the walls; m and s are mean and deviation
    of the data (N, *event), the deviation at least a hundredth of the box. Draws by inverting the
    distribution function. Raises ValueError for a domain that is no box.
    """

    log_z = 0.0
    centre: Tensor
    width: Tensor

    def __init__(self, domain: Domain, data: Tensor) -> None:
        if domain.kind != "box":
            raise ValueError(
                f"the domain is {domain.kind}; numbers are cut off at the walls of a box; use "
                "targets.fit_base"
            )
        super().__init__(domain)
        deviation = data.std(0, correction=int(len(data) > 1))
        self.register_buffer("centre", data.mean(0))
        self.register_buffer("width", deviation.clamp(min=(domain.hi - domain.lo) / 100))

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        width, (low, high) = self.width.to(x.dtype), (wall.to(x) for wall in self._walls())
        each = (
            0.5 * ((x - self.centre.to(x.dtype)) / width).square()
            + width.log()
            + (high - low).log()
            + HALF_LOG_TAU
        )
        return each.flatten(1).sum(1)

    @torch.no_grad()
    def draw(
        self, count: int, generator: torch.Generator, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Draw exactly (count, *event)."""
        (low, high), device = self._walls(), self.centre.device
        kind = torch.float64 if has_float64(device) else torch.float32
        shape = (count, *self.centre.shape)
        u = torch.rand(shape, generator=generator, device=device, dtype=kind).to(low)
        z = torch.special.ndtri(low + (high - low) * u).to(device, kind)
        return (
            (self.centre + self.width * z)
            .clamp(self.domain.lo, self.domain.hi)
            .to(dtype or self.centre.dtype)
        )

    def _walls(self) -> tuple[Tensor, Tensor]:
        """Return the probabilities (*event) of lying below the lower and below the upper wall, in
        float64.
        """
        centre, width = to_float64(self.centre), to_float64(self.width)
        low, high = (
            torch.special.ndtr((wall - centre) / width) for wall in (self.domain.lo, self.domain.hi)
        )
        return low, high


class FlowNoise(Energy):
    """E(x) = −log q(x) of a normalizing flow, by default a neural spline; log Z = 0.

    domain: real, or a box, which is filled through a sigmoid (numbers nearer to a wall than a
    thousandth of the width are moved there); data: (N, *event), whose mean and
    deviation standardize; transforms: couplings of the spline; hidden: widths of their networks;
    flow: another unconditional flow of zuko over as many numbers. Raises ImportError without zuko,
    the extra `lowland[zuko]`. Source: Durkan et al. (2019), https://arxiv.org/abs/1906.04032; zuko,
    https://github.com/probabilists/zuko

    >>> g = torch.Generator().manual_seed(0)
    >>> flow = FlowNoise(real(2), torch.randn(100, 2, generator=g))
    >>> x, log_q = flow.walk(5, g)
    >>> bool((flow(x) + log_q).abs().max() < 1e-4)
    True
    """

    log_z = 0.0
    centre: Tensor
    width: Tensor

    def __init__(
        self,
        domain: Domain,
        data: Tensor,
        transforms: int = 4,
        hidden: tuple[int, ...] = (64, 64),
        flow: Any = None,
    ) -> None:
        super().__init__(domain if domain.kind == "box" else real(*data.shape[1:]))
        flow = flow or _spline(data[0].numel(), transforms, hidden)
        self.flow = flow.to(data.device, data.dtype)
        flat = self._unfold(data)[0]
        mean, scale = measure_columns(flat)
        self.register_buffer("centre", mean.to(flat))
        self.register_buffer("width", scale.to(flat))

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        y, stretch = self._unfold(x)
        log_q = self.flow().log_prob((y - self.centre) / self.width)
        return self.width.log().sum() + stretch - log_q

    def walk(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw x (count, *event) with log q(x) (count,), differentiable in the flow's weights."""
        shape, like = (count, len(self.centre)), self.centre
        z = torch.randn(shape, generator=generator, device=like.device, dtype=like.dtype)
        y, stretch = self.flow().transform.inv.call_and_ladj(z)
        log_q = -(0.5 * z.square() + HALF_LOG_TAU).sum(1) - stretch - self.width.log().sum()
        y = self.centre + self.width * y
        if self.domain.kind == "box":
            span = self.domain.hi - self.domain.lo
            log_q = log_q - (F.logsigmoid(y) + F.logsigmoid(-y) + math.log(span)).sum(1)
            y = self.domain.lo + span * torch.sigmoid(y)
        return y.view(count, *self.domain.shape), log_q

    def _unfold(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return y (B, D) on the real line, by the logit from a box, and log |dx/dy| (B,)."""
        flat = x.flatten(1)
        if self.domain.kind != "box":
            return flat, flat.new_zeros(len(flat))
        span = self.domain.hi - self.domain.lo
        u = ((flat - self.domain.lo) / span).clamp(1e-3, 1 - 1e-3)
        return u.log() - torch.log1p(-u), (u.log() + torch.log1p(-u) + math.log(span)).sum(1)

    @torch.no_grad()
    def draw(
        self, count: int, generator: torch.Generator, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Draw exactly (count, *event)."""
        return self.walk(count, generator)[0].to(dtype or self.centre.dtype)


def _spline(size: int, transforms: int, hidden: tuple[int, ...]) -> Any:
    """Build a neural spline flow in coupling form over `size` numbers."""
    zuko = import_extra("zuko")
    return zuko.flows.NSF(size, transforms=transforms, hidden_features=hidden, passes=2)

"""Hidden units of Boltzmann machines, given the field z that acts on them.

A hidden unit with base measure ρ(h) in a field z has p(h) ∝ ρ(h) exp(z h) and the log-partition
function

    A(z) = log ∫ ρ(h) exp(z h) dh,      A'(z) = E[h]

    Bernoulli    h in {0, 1}       A(z) = log(1 + e^z)                    E[h] = 1 / (1 + e^{−z})
    Rectified    h ≥ 0             A(z) = z²/2 + log Φ(z) + ½ log 2π     E[h] = z + φ(z) / Φ(z)

Rectified units are an exact normal distribution cut off at zero, not the approximation
max(0, z + noise): block Gibbs stays exact. Source: Smolensky (1986); exponential-family harmoniums:
Welling, Rosen-Zvi & Hinton (2004),
https://papers.nips.cc/paper/2004/hash/0e900ad84f63618452210ab8baae0218-Abstract.html
"""

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lowland.devices import has_float64, to_float64

HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


class HiddenUnits(Protocol):
    """Operations of every kind of hidden unit; all element by element."""

    at_rest: float  # A(0)

    def log_partition(self, z: Tensor) -> Tensor: ...

    def mean(self, z: Tensor) -> Tensor: ...

    def draw(self, z: Tensor, generator: torch.Generator) -> Tensor: ...

    def base(self, h: Tensor) -> Tensor:
        """Return −log ρ(h)."""
        ...


def coins(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Draw Bernoulli variables, floats 0 and 1, of log-odds of any shape.

    On a CPU, where drawing costs more than the products do, float32 draws take 32 random bits each,
    two from one call of the generator: p is met to 1e-7, as by `uniform_`, at half the cost.

    >>> coins(torch.tensor([-99.0, 99.0]), torch.Generator().manual_seed(0))
    tensor([0., 1.])
    """
    p = torch.sigmoid(logits)
    if p.dtype != torch.float32 or p.device.type != "cpu":
        return torch.empty_like(p).uniform_(generator=generator).lt_(p)
    words = torch.empty((p.numel() + 1) // 2, dtype=torch.int64)
    # without bounds the highest bit would stay 0
    words.random_(-(2**63), None, generator=generator)
    bits = words.view(torch.int32)[: p.numel()].view(p.shape)
    return bits.to(torch.float32).lt_(p.mul_(2.0**32).sub_(2.0**31))


class Bernoulli:
    """h in {0, 1}."""

    at_rest = math.log(2)

    def log_partition(self, z: Tensor) -> Tensor:
        return softplus(z)

    def mean(self, z: Tensor) -> Tensor:
        return torch.sigmoid(z)

    def draw(self, z: Tensor, generator: torch.Generator) -> Tensor:
        return coins(z, generator)

    def base(self, h: Tensor) -> Tensor:
        return torch.zeros_like(h)


class Rectified:
    """h ≥ 0 with base measure exp(−h²/2): a normal distribution around z, cut off at zero."""

    at_rest = 0.5 * math.log(math.pi / 2)

    def log_partition(self, z: Tensor) -> Tensor:
        low, high = z.clamp(max=0.0), z.clamp(min=0.0)
        # = log Φ(z) + z²/2, without cancellation
        tail = torch.log(torch.special.erfcx(-low / math.sqrt(2)) / 2)
        body = 0.5 * high.square() + torch.special.log_ndtr(high)
        return torch.where(z < 0, tail, body) + HALF_LOG_TAU

    def mean(self, z: Tensor) -> Tensor:
        # z + φ/Φ = z + √(2/π) / erfcx(−z/√2), which overflows above; there φ/Φ vanishes
        return z + math.sqrt(2 / math.pi) / torch.special.erfcx(-z.clamp(max=12.0) / math.sqrt(2))

    def draw(self, z: Tensor, generator: torch.Generator) -> Tensor:
        exact = has_float64(z.device)
        kind, least = (torch.float64, 1e-300) if exact else (torch.float32, 2.0**-25)
        u = torch.rand(z.shape, generator=generator, device=z.device, dtype=kind)
        return _cut_normal(to_float64(z), to_float64(u).clamp_min(least)).to(z)

    def base(self, h: Tensor) -> Tensor:
        return 0.5 * h.square()


def _cut_normal(z: Tensor, u: Tensor) -> Tensor:
    """Solve Φ(z − t) / Φ(z) = u for t ≥ 0 in float64, element by element.

    That is P(h > t) = u for a normal distribution around z, cut off at zero. Around and above zero
    by the inverse of Φ. Below, where Φ(z) would underflow, by Newton's rule on the logarithm of the
    tail, log u = log erfcx((t − z) / √2) − log erfcx(−z / √2) + z t − t² / 2, which is concave, so
    the iterates fall to the root.
    """
    high = z.clamp(min=-1.0)
    near = high - torch.special.ndtri(u * torch.special.ndtr(high))
    low, root = -z.clamp(max=-1.0), math.sqrt(2)
    t, start = -u.log() / low, torch.special.erfcx(low / root).log()
    for _ in range(6):
        tail = torch.special.erfcx((low + t) / root)
        excess = tail.log() - start - low * t - 0.5 * t.square() - u.log()
        t = t + excess * tail * math.sqrt(math.pi / 2)
    return torch.where(z < -1.0, t, near).clamp_min(0.0)


UNITS: dict[str, HiddenUnits] = {"bernoulli": Bernoulli(), "relu": Rectified()}

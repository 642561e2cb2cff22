"""Check that sampling leaves a module as it was: modes, buffers, weights, gradients."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from lowland.domain import Domain, real
from lowland.energy import Energy, Gibbs
from lowland.samplers import Sampler, sample
from lowland.testing.chains import seeded
from lowland.testing.exact_checks import CLASSES, SITES, domain_of, parts
from lowland.testing.requirements import require


def unsettle(module: nn.Module) -> None:
    """Give a module mixed modes, mixed requires_grad and some gradients."""
    for i, part in enumerate(module.modules()):
        part.training = i % 3 != 1
    for i, p in enumerate(module.parameters()):
        p.requires_grad_(i % 3 != 2)
        if i % 2:
            p.grad = torch.full_like(p, 0.5)


@contextmanager
def no_trace(module: nn.Module, *, buffers: bool = True) -> Iterator[None]:
    """Check that a block, which may raise, leaves a module as it was, its gradients included."""
    modes = {name: part.training for name, part in module.named_modules()}
    tensors = {name: (p, p.detach().clone()) for name, p in module.named_parameters()}
    wanted = {name: p.requires_grad for name, p in module.named_parameters()}
    grads = {
        name: (p.grad, None if p.grad is None else p.grad.clone())
        for name, p in module.named_parameters()
    }
    held = {name: (b, b.clone()) for name, b in module.named_buffers()}
    try:
        yield
    finally:
        require(
            modes == {name: part.training for name, part in module.named_modules()},
            "a mode changed",
        )
        require(
            wanted == {name: p.requires_grad for name, p in module.named_parameters()},
            "requires_grad changed",
        )
        for name, p in module.named_parameters():
            require(
                p is tensors[name][0] and torch.equal(p.detach(), tensors[name][1]),
                f"weight {name} changed",
            )
            was, copied = grads[name]
            require(p.grad is was, f"the gradient of {name} was replaced")
            require(
                was is None or copied is None or torch.equal(was, copied),
                f"the gradient of {name} changed",
            )
        require(
            not buffers or {n for n, _ in module.named_buffers()} == set(held),
            "buffers came or went",
        )
        for name, b in module.named_buffers() if buffers else ():
            require(b is held[name][0] and torch.equal(b, held[name][1]), f"buffer {name} changed")


class Probe(Energy):
    """An energy with batch norm, dropout and spectral norm, which a careless loop disturbs."""

    def __init__(self, domain: Domain | None = None) -> None:
        super().__init__(domain or real(3))
        inputs = math.prod(self.domain.shape) * (self.domain.classes or 1)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(
                nn.utils.parametrizations.spectral_norm(nn.Linear(inputs, 8)),
                nn.BatchNorm1d(8),
                nn.SiLU(),
                nn.Dropout(0.5),
                nn.Linear(8, 8),
                nn.SiLU(),
                nn.Linear(8, 1),
            )
        self.calls = 0
        self.fuse = math.inf  # forward raises from this call on

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        return self._evaluate(one_hot(x.long(), CLASSES).to(x) if self.domain.classes else x)

    @property
    def gibbs(self) -> Gibbs | None:
        if not self.domain.classes:
            return None
        return Gibbs(one_hot_energy=lambda z, c=None: self._evaluate(z))

    def _evaluate(self, z: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > self.fuse:
            raise ArithmeticError("the fuse has blown")
        z = z.flatten(1)
        return self.net(z).squeeze(1) + 0.5 * z.square().sum(1)


def sampling_leaves_no_trace(sampler: Sampler, kind: str = "real") -> None:
    """Check that `sample` restores a module, after an exception too, and samples its eval mode."""
    probe = Probe(domain_of(kind, SITES))
    unsettle(probe)
    x = probe.domain.draw(16, seeded())
    with no_trace(probe):
        trace = sample(probe, sampler, x, 4, generator=seeded(1))
    still = copy.deepcopy(probe).eval()
    require(
        torch.equal(trace.x, sample(still, sampler, x, 4, generator=seeded(1)).x),
        "another function was sampled",
    )
    torch.testing.assert_close(trace.state.energy, still(trace.x).detach())
    require(not any(part.requires_grad for part in parts(trace.state)), "the state holds a graph")
    probe.calls, probe.fuse = 0, 6
    with no_trace(probe), suppress(ArithmeticError):
        sample(probe, sampler, x, 20, generator=seeded())
    require(probe.calls > probe.fuse, "the fuse did not blow")

"""Sampling images from small to large.

Source: Gao et al. (2018), https://arxiv.org/abs/1709.08868
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lowland.domain import Domain
from lowland.energy import Energy
from lowland.samplers.anneal import divide_steps, one_each
from lowland.samplers.kernel import DISCRETE, Sampler
from lowland.samplers.loop import Trace, sample
from lowland.samplers.settings import read_count


def multiscale_sample(
    energies: Sequence[Energy],
    samplers: Sampler | Sequence[Sampler],
    x: Tensor,
    steps: int | Sequence[int],
    *,
    generator: torch.Generator,
    smooth: bool = False,
    progress: Callable[[int], object] | None = None,
) -> list[Trace]:
    """Sample images from small to large: run chains at the smallest size, enlarge them, refine, and
    so on. One trace per size.

    energies: from the smallest size to the largest, each with the shape (channels, sizes...) of its
    events; x: at the smallest; samplers: one for all or one per size; steps: in all, divided
    evenly, or a list with those of each size. Points are enlarged by repeating the nearest, or, if
    `smooth`, linearly in every direction; either way each new number is a mean of old ones, so that
    points stay inside a box. A size only says where the next one begins: a distribution that the
    last sampler does not reach in its own steps is not reached.

    Raises ValueError where a size shrinks, channels differ, nothing grows, or `smooth` meets a
    discrete domain.

    >>> import torch, lowland
    >>> bowl = lambda x: x.square().flatten(1).sum(1)
    >>> sizes = [lowland.Function(bowl, lowland.real(1, n, n)) for n in (2, 4)]
    >>> g, start = torch.Generator().manual_seed(0), torch.zeros(3, 1, 2, 2)
    >>> traces = multiscale_sample(sizes, lowland.MALA(0.1), start, 10, generator=g)
    >>> [tuple(trace.x.shape) for trace in traces]
    [(3, 1, 2, 2), (3, 1, 4, 4)]
    """
    samplers = one_each(samplers, energies)
    for small, large in pairwise(energies):
        _check_growth(small.domain, large.domain, smooth)
    if isinstance(steps, Sequence):
        shares = [read_count("a number of steps", share, least=0) for share in steps]
    else:
        shares = divide_steps(read_count("steps", steps, least=0), len(energies))
    if len(shares) != len(energies):
        raise ValueError(
            f"{len(shares)} numbers of steps came for {len(energies)} sizes; one each is needed; "
            "or pass a sum"
        )
    traces: list[Trace] = []
    for energy, sampler, share in zip(energies, samplers, shares, strict=True):
        x = _enlarge(x, energy.domain, smooth) if traces else x
        traces.append(sample(energy, sampler, x, share, generator=generator, progress=progress))
        x = traces[-1].x
    return traces


def _check_growth(small: Domain, large: Domain, smooth: bool) -> None:
    a, b = small.shape, large.shape
    grows = (
        len(a) == len(b) in (2, 3, 4)
        and a[0] == b[0]
        and a != b
        and all(m <= n for m, n in zip(a, b, strict=True))
    )
    if not grows:
        raise ValueError(
            f"events of {a} are followed by events of {b}; both need a shape (channels, sizes...) "
            "with equal channels and sizes that grow; order the energies from small to large"
        )
    if smooth and large.kind in DISCRETE:
        raise ValueError(
            f"smooth enlarging came to a {large.kind} domain; means of its values are none; leave "
            "smooth out"
        )


def _enlarge(x: Tensor, domain: Domain, smooth: bool) -> Tensor:
    if smooth:
        mode = ("linear", "bilinear", "trilinear")[len(domain.shape) - 2]
        large = interpolate(x, domain.shape[1:], mode=mode, align_corners=False)
    else:
        large = interpolate(x, domain.shape[1:], mode="nearest")
    # folds back the last rounding error of a mean of numbers at a wall
    return domain.reflect(large)[0]

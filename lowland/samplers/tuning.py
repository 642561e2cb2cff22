"""Tuning: pay the warm-up once, and get a new sampler."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from lowland.energy import Energy, check_normalisable, check_points, lift
from lowland.samplers.auto import choose
from lowland.samplers.doors import check_arguments, check_sampler
from lowland.samplers.kernel import Sampler
from lowland.samplers.warmup import warm_up


def tune(
    energy: Energy | Callable[..., Tensor],
    sampler: Sampler | str,
    x: Tensor,
    steps: int = 300,
    *,
    target_accept: float | None = None,
    metric: bool = True,
    generator: torch.Generator,
    say: Callable[[str], object] = print,
    progress: Callable[[int], object] | None = None,
) -> Sampler:
    """Tune step size, diagonal metric and, for parallel tempering, step sizes and temperatures.
    Returns a new sampler.

    x: (B, *event) points to warm up from; they and the old sampler are left alone. steps: of the
    warm-up. target_accept: mean acceptance probability, the sampler's own unless given (0.574 for
    MALA and DMALA, 0.8 for HMC and NUTS). metric: set `inv_mass_sqrt` too, for samplers that have
    one: standard deviations of the coordinates over their geometric mean. Non-finite proposals
    count as refused. Chains of the warm-up that are at rest begin anew where others are, and a step
    that would trap chains which start at x is halved until they move; a warning says what that
    cost, or that some stay. With "auto" for a sampler, candidates are tuned and compared, and `say`
    is called with which was chosen and why: see `choose`. progress: called with the number of steps
    done, of the warm-up and of a trial of what it found, but not with "auto".

    Raises ValueError for samplers without an accept step, whose step cannot be judged by
    acceptance, or without a step size; where no chain leaves x at any step size; and where chains
    go ever farther out because nothing confines them.

    >>> import torch, lowland
    >>> g = torch.Generator().manual_seed(0)
    >>> start = torch.randn(200, 2, generator=g)
    >>> bowl = lambda x: 50 * x.square().sum(1)
    >>> lowland.tune(bowl, lowland.MALA(1.0), start / 10, generator=g).step_size < 0.1
    True
    """
    energy = lift(energy)
    steps = check_arguments(steps, generator, x)
    check_points(energy, x)
    check_normalisable(energy, x)
    if not isinstance(sampler, str):
        check_sampler(sampler)
    else:
        if sampler != "auto":
            raise ValueError(
                f"the sampler is {sampler!r}; a sampler or 'auto' is needed; pass one of them"
            )
        choice = choose(energy, x, steps, generator=generator)
        say(str(choice))
        return choice.sampler
    tuned, note = warm_up(
        energy,
        sampler,
        x,
        steps,
        target_accept=target_accept,
        metric=metric,
        generator=generator,
        progress=progress,
    )
    if note:
        warnings.warn(note, stacklevel=2)
    return tuned

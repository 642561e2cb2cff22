"""Judge a run of chains when it ends: one warning, if something went wrong."""

import warnings

import torch
from torch import Tensor

from lowland.devices import to_float64
from lowland.energy import Energy
from lowland.samplers.doors import resolves
from lowland.samplers.kernel import DISCRETE, Sampler


class NothingMoved(UserWarning):
    """A warning that all chains of a run are where they began."""


AT_REST = 0.5  # moves of a chain to be expected in the whole run, below which it is called at rest
LONG = 50  # steps of a run after which single chains at rest are named


def warn_of_lost(diverged: Tensor) -> None:
    """Warn where points on a path met scores that were not finite; diverged (B,): how often."""
    lost, total = int((diverged > 0).sum()), len(diverged)
    if lost:
        warnings.warn(
            f"{lost} of {total} points met scores that are not finite, and stayed where they were; "
            "look for overflow in the energy",
            NothingMoved if lost == total else UserWarning,
            stacklevel=3,
        )


def warn_of_run(
    energy: Energy,
    sampler: Sampler,
    x: Tensor,
    value: Tensor,
    acceptance: Tensor,
    diverged: Tensor,
    steps: int,
    errors: list[str],
) -> None:
    """Warn where chains did not move, met numbers that are not finite, or ended where energies
    cannot be told apart.

    x (B, *event), value (B,): where chains ended; acceptance, diverged (B,): of the run, per chain;
    errors: what the energy raised, in words.
    """
    if steps == 0:
        return
    name, notes = type(sampler).__name__, []
    rest, refused = to_float64(acceptance) * steps < AT_REST, int(diverged.sum())
    still, total = int(rest.sum()), len(x)
    if bool((diverged >= steps).all()):
        notes.append("every proposal was non-finite, so all chains are where they began")
    elif still == total:
        notes.append(f"no proposal of {name} was accepted, so chains are where they began")
    elif still and steps >= LONG:
        notes.append(f"{still} of {total} chains did not move in {steps} steps")
    if refused and notes[:1] == [] and not sampler.adjusted:
        lost = int((diverged > 0).sum())
        notes.append(f"{lost} of {total} chains met non-finite numbers ({refused} moves refused)")
    if errors:
        notes.append(f"the energy raised {errors[0]}, and such points were refused")
    if not bool(torch.isfinite(x).all()):
        notes.append("some points are not finite")
    if sampler.adjusted and energy.domain.kind not in DISCRETE and not resolves(value):
        notes.append(
            f"energies near {value.abs().max().item():.3g} cannot be told apart to less than a "
            "nat's sixteenth, so accept steps were left to rounding"
        )
    if notes:
        advice = "shorten the step, start elsewhere, or look for overflow in the energy"
        kind = NothingMoved if still == total else UserWarning
        warnings.warn(f"{'; '.join(notes)}; {advice}", kind, stacklevel=3)

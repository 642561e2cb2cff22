"""A summary of chains: moments, agreement, effective sample sizes, and what to do."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lowland.metrics.mcmc import Layout, ess, mcse, per_coordinate, rhat
from lowland.samplers import Trace
from lowland.samplers.tempering import TemperedState

# Both from Vehtari et al. (2021), https://doi.org/10.1214/20-BA1221
MAX_RHAT = 1.01  # above: do not use the draws yet
MIN_ESS = 400  # below: variances and R-hat are themselves too noisy
MIN_SWAP_RATE = 0.01  # below: two temperatures might as well not be neighbours
MAX_TABLE_ROWS = 8  # an image has hundreds of coordinates


@dataclass(frozen=True, repr=False)
class Summary:
    """Table of diagnostics. Prints worst coordinates first, followed by the verdict.

    mean, sd, mcse (standard error of the mean), rhat, ess_bulk, ess_tail: (*event) each, float64;
    draws per chain, chains. From a trace also steps, acceptance (B,) and diverged (B,); from a
    tempered one swap_rates (R − 1,), nan where no swap was tried, and round_trips (B,) in so many
    sweeps, earlier runs of the same state included. All are None where unknown.
    """

    mean: Tensor
    sd: Tensor
    mcse: Tensor
    rhat: Tensor
    ess_bulk: Tensor
    ess_tail: Tensor
    draws: int
    chains: int
    steps: int | None = None
    acceptance: Tensor | None = None
    diverged: Tensor | None = None
    swap_rates: Tensor | None = None
    round_trips: Tensor | None = None
    sweeps: int | None = None

    @property
    def verdict(self) -> list[str]:
        """List what is wrong and what to do, in sentences; one sentence if nothing is."""
        found = [*self._of_coordinates(), *self._of_chains(), *self._of_swaps()]
        return found or [
            f"nothing to object to ({self._worst()}); a mode that no chain has visited would not "
            "show"
        ]

    def _of_coordinates(self) -> list[str]:
        still = self.rhat.isnan()
        found = (
            (
                self.rhat > MAX_RHAT,
                f"R-hat above {MAX_RHAT} in {{}}: chains disagree; run longer or look for several "
                "modes",
            ),
            (
                torch.fmin(self.ess_bulk, self.ess_tail) < MIN_ESS,
                f"ESS below {MIN_ESS} in {{}}: means, quantiles and R-hat itself are noisy; draw "
                "more",
            ),
            (still, "no movement in {}: R-hat and ESS are nan; look whether that is meant"),
            (
                self.ess_tail.isnan() & ~still,
                "no tail to judge in {}: more than 95 % of the draws share the largest value; tail "
                "ESS is nan",
            ),
        )
        return [
            text.format(f"{int(bad.sum())} of {bad.numel()} coordinates")
            for bad, text in found
            if bad.any()
        ]

    def _of_chains(self) -> list[str]:
        found = []
        if self.chains == 1:
            found.append(
                "one chain: its halves are compared, and a second mode cannot show; run several "
                "from far apart"
            )
        if self.diverged is not None and self.diverged.any():
            bad = int((self.diverged > 0).sum())
            found.append(
                f"{int(self.diverged.sum())} divergences in {bad} of {self.chains} chains: "
                "proposals were refused there, and the chains may avoid a region; shorten "
                "the step, or look for where the energy is not finite"
            )
        if self.acceptance is not None and (self.acceptance == 0).any():
            stuck = int((self.acceptance == 0).sum())
            found.append(
                f"{stuck} of {self.chains} chains accepted nothing: shorten the step (see tune)"
            )
        return found

    def _of_swaps(self) -> list[str]:
        found = []
        if self.swap_rates is not None and not (self.swap_rates > MIN_SWAP_RATE).all():
            low = (~(self.swap_rates > MIN_SWAP_RATE)).nonzero().flatten().tolist()
            cut = ", ".join(f"{i} and {i + 1}" for i in low)
            found.append(
                f"hardly a swap between temperatures {cut}: the ladder is cut there; put one "
                "between (see tune)"
            )
        if self.round_trips is not None and not self.round_trips.any():
            found.append(
                "no round trip: nothing has come from the hot end to the cold and back; run longer "
                "or add temperatures"
            )
        return found

    def _worst(self) -> str:
        """State R-hat and ESS at their worst, over the coordinates that have them."""
        if self.rhat.isnan().all():
            return "no coordinate moved"
        tail = self.ess_tail[~self.ess_tail.isnan()]
        return (
            f"R-hat up to {self.rhat.nan_to_num(1.0, posinf=torch.inf).max():.3f}, "
            f"bulk ESS from {self.ess_bulk[~self.ess_bulk.isnan()].min():.0f}"
            + (f", tail ESS from {tail.min():.0f}" if len(tail) else "")
        )

    def __repr__(self) -> str:
        event, total = tuple(self.rhat.shape), self.rhat.numel()
        order = self.rhat.nan_to_num(-1.0, posinf=torch.inf).flatten()
        worst = order.argsort(descending=True, stable=True)[:MAX_TABLE_ROWS]
        lines = [
            f"Summary: {self.draws} draws of {self.chains} chains, {total} coordinates {event}",
            f"{'worst first':>14} {'mean':>10} {'sd':>10} {'mcse':>10} {'R-hat':>8} "
            f"{'bulk ESS':>9} {'tail ESS':>9}",
        ]
        columns = (self.mean, self.sd, self.mcse, self.rhat, self.ess_bulk, self.ess_tail)
        for place in worst:
            where = [int(i) for i in torch.unravel_index(place, event)] if event else "x"
            m, s, e, r, b, t = (float(column.flatten()[place]) for column in columns)
            lines.append(
                f"{where!s:>14} {m:>10.4g} {s:>10.4g} {e:>10.2g} {r:>8.3f} {b:>9.0f} {t:>9.0f}"
            )
        if total > MAX_TABLE_ROWS:
            lines.append(f"{'...':>14} {total - MAX_TABLE_ROWS} more; all: {self._worst()}")
        return "\n".join([*lines, *self._facts(), *(f"- {sentence}" for sentence in self.verdict)])

    def _facts(self) -> list[str]:
        lines = []
        if self.acceptance is not None and self.diverged is not None:
            a = self.acceptance
            lines.append(
                f"acceptance {a.mean():.3f} ({a.min():.3f} to {a.max():.3f} by chain), "
                f"{int(self.diverged.sum())} divergences in "
                f"{self.steps} steps"
            )
        if self.swap_rates is not None:
            lines.append(
                "swap rates " + " ".join(f"{rate:.2f}" for rate in self.swap_rates.tolist())
            )
        if self.round_trips is not None:
            lines.append(
                f"{int(self.round_trips.sum())} round trips, "
                f"{self.round_trips.float().mean():.2g} per chain in {self.sweeps} sweeps"
            )
        return lines


def summary(x: Trace | Tensor, *, layout: Layout | None = None) -> Summary:
    """Compute mean, sd, standard error, R-hat, bulk and tail ESS of every coordinate of draws.

    x: a trace with draws, or a tensor that names its layout, "draws chains ..." or "chains draws
    ...". Raises ValueError for a tensor without layout, fewer than 10 draws per chain, or draws
    that are not finite.

    >>> import lowland
    >>> g = torch.Generator().manual_seed(0)
    >>> start = 3 * torch.randn(4, 2, generator=g)
    >>> bowl = lambda x: 0.5 * x.square().sum(1)
    >>> found = summary(lowland.sample(bowl, lowland.MALA(0.5), start, 50, generator=g, thin=1))
    >>> found.rhat.shape, bool((found.mcse < found.sd).all())
    (torch.Size([2]), True)
    >>> found.verdict[-1]
    'ESS below 400 in 2 of 2 coordinates: means, quantiles and R-hat itself are noisy; draw more'
    """
    mean, sd = per_coordinate(
        x, lambda part: torch.stack([part.mean((1, 2)), part.flatten(1).std(1)]), layout=layout
    )
    errors, disagreement = mcse(x, layout=layout), rhat(x, layout=layout)
    columns = (mean, sd, errors, disagreement, ess(x, layout=layout), ess(x, "tail", layout=layout))
    if not isinstance(x, Trace):
        draws, chains = x.shape[:2] if layout == "draws chains ..." else x.shape[1::-1]
        return Summary(*columns, draws, chains)
    draws, chains = x.draws.shape[:2]
    return Summary(*columns, draws, chains, x.steps, x.acceptance, x.diverged, *_swaps(x))


def _swaps(trace: Trace) -> tuple[Tensor | None, Tensor | None, int | None]:
    """Return swap rates, round trips and sweeps of parallel tempering, None of other samplers."""
    if not isinstance(trace.state, TemperedState):
        return None, None, None
    counts = trace.state.tempering
    return counts.accepted / counts.tried, counts.round_trips, trace.state.sweeps

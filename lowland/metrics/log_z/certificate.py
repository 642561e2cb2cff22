"""Certificate: what two runs of annealed importance sampling in opposite directions bound, and how
well.

With w the weights of a run from the base (forward) and v those of a run back from draws of the
target (reverse),

    log mean w            is below log Z − log Z_base on average and in probability: P(it exceeds by
                          b) ≤ e^(−b)
    −log mean v           is above it likewise, if the draws are those of the target
    Bennett's ratio       uses both, is in between, and is the point estimate: see `bennett`

Heavy tails make both log means lag behind on their safe side, so a bracket widens where weights are
few; the bootstrap over chains adds what luck may have done. A forward run that lost a mode, with a
reverse run that lost the same, is the one thing that no number here can see: hence `draws` says
where the reverse run began, and `problems` what speaks against belief. Source: Neal (2001),
https://arxiv.org/abs/physics/9803008; both directions: Grosse, Ghahramani & Adams (2015),
https://arxiv.org/abs/1511.02543; Bennett (1976), https://doi.org/10.1016/0021-9991(76)90078-4
"""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lowland.energy.placement import widen
from lowland.plain import to_plain

# of each end: twice that is 1 %, which leaves 4 % to few weights, skewness and bootstrap
TAIL = 0.005
RESAMPLES = 2000
FEWEST = 10.0  # effective weights below which nothing is certified
LOST = 0.01  # share of proposals that may be refused for not being finite
RHAT = 1.1  # of the energies of the chains that made the reverse draws, where all started alike
APART = 4.0  # standard errors between the energies of chains that started differently


class Direction(NamedTuple):
    """One run: its estimate of log Z, standard error and interval (low, high), the effective sample
    size of its weights, the mean acceptance of its moves, refused non-finite proposals, chains that
    lost all weight, and log Z along the path.
    """

    value: float
    error: float
    low: float
    high: float
    ess: float
    acceptance: float
    diverged: float
    weightless: int
    curve: tuple[float, ...]


@dataclass(frozen=True, repr=False)
class LogZ:
    """log Z with a two-sided certificate. Prints its verdict.

    value ± error: the point estimate; [lower, upper]: contains log Z with at least 95 % confidence,
    if the reverse draws are what `draws` says. A certificate presumes that some chain visits every
    part of space that holds weight: a mode that neither the base nor the reverse draws reach, a
    needle that all of them miss, is in neither end (name modes you know of with `starts`); tails
    are looked at along rays, and no further than 10⁴ times the draws' own distance. method:
    "enumeration" (then value = lower = upper) or "annealed importance sampling"; details: in words,
    what was added up or run; forward, reverse: the two runs; draws: where the reverse run began;
    betas: inverse temperatures from 0 (base) to 1; tolerance: gap between the directions, and width
    of the bracket, that is allowed; problems: why it is not certified, empty if it is.
    """

    value: float
    error: float
    lower: float
    upper: float
    method: str
    details: str
    forward: Direction | None = None
    reverse: Direction | None = None
    draws: str = ""
    base: str = ""
    sampler: str = ""
    chains: int = 0
    moves: int = 0
    betas: tuple[float, ...] = ()
    tolerance: float = 0.5
    rhat: float | None = None
    problems: tuple[str, ...] = field(default=())

    @property
    def certified(self) -> bool:
        """Tell whether nothing speaks against the bracket."""
        return not self.problems

    @property
    def gap(self) -> float:
        """Return reverse less forward estimate: 0 for enumeration."""
        return self.reverse.value - self.forward.value if self.forward and self.reverse else 0.0

    @property
    def num_temperatures(self) -> int:
        """Count the steps of the path."""
        return max(len(self.betas) - 1, 0)

    @property
    def presumes(self) -> str:
        """Say in a sentence what no bracket can see; empty for a sum over all states."""
        if self.forward is None:
            return ""
        return (
            f"it presumes that the draws of {self.base} or the reverse draws reach every mode, and "
            "that no weight lies farther out than was looked"
        )

    @property
    def verdict(self) -> str:
        """Return "certified", or "not certified: ..." with every reason."""
        return "certified" if self.certified else f"not certified: {'; '.join(self.problems)}"

    def __repr__(self) -> str:
        if self.forward is None or self.reverse is None:
            how = "exact: " if self.method == "enumeration" else ""
            return f"LogZ({self.value:.4f}, {how}{self.details})"
        f, r = self.forward, self.reverse
        return (
            f"LogZ({self.value:.3f} ± {self.error:.3f}, in [{self.lower:.3f}, {self.upper:.3f}], "
            f"{self.verdict}; forward {f.value:.3f} ± {f.error:.3f} (weights worth {f.ess:.0f} of "
            f"{self.chains}), reverse {r.value:.3f} ± {r.error:.3f} (worth {r.ess:.0f}) from "
            f"{self.draws}; {self.num_temperatures} temperatures from {self.base} by "
            f"{self.sampler}; {self.presumes})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        plain = {key: getattr(self, key) for key in self.__dataclass_fields__}
        for key in ("forward", "reverse"):
            if plain[key] is not None:
                plain[key] = {
                    k: list(v) if isinstance(v, tuple) else v
                    for k, v in plain[key]._asdict().items()
                }
        plain |= {"betas": list(self.betas), "problems": list(self.problems)}
        more = {
            "certified": self.certified,
            "presumes": self.presumes,
            "gap": self.gap,
            "num_temperatures": self.num_temperatures,
        }
        return {key: to_plain(value) for key, value in (plain | more).items()}


def log_mean(log_weights: Tensor) -> Tensor:
    """Return the log of the mean of exp(log_weights) over the last axis, in float64."""
    return widen(log_weights).logsumexp(-1) - math.log(log_weights.shape[-1])


def bootstrap(
    log_weights: Tensor, generator: torch.Generator, resamples: int = RESAMPLES
) -> Tensor:
    """Return log mean weights (resamples,) of chains (B,) drawn anew with replacement; chains are
    what is independent.
    """
    n = len(log_weights)
    chosen = torch.randint(n, (resamples, n), generator=generator, device=log_weights.device)
    return log_mean(log_weights[chosen])


def interval(log_weights: Tensor, generator: torch.Generator) -> tuple[float, float, float]:
    """Return standard error, low and high end of log mean weight: the wider one of bootstrap
    percentiles and normal theory.
    """
    centre = log_mean(log_weights).item()
    again = bootstrap(log_weights, generator)
    shares = torch.softmax(log_weights, 0) * len(log_weights)
    error = shares.std().item() / math.sqrt(len(shares))  # delta method
    z = -math.sqrt(2) * torch.erfinv(torch.tensor(2 * TAIL - 1, dtype=torch.float64)).item()
    low, high = (again.quantile(q).item() for q in (TAIL, 1 - TAIL))
    return error, min(low, centre - z * error), max(high, centre + z * error)


def bennett(up: Tensor, down: Tensor) -> tuple[float, float]:
    """Return Bennett's estimate of log Z_target − log Z_base from log weights `up` (n,) of the
    forward and `down` (m,) of the reverse run, with its asymptotic standard error:

        Σ_up σ(log w + log m/n − c) = Σ_down σ(c − log m/n + log v),    solved for c by bisection

    >>> import torch
    >>> g = torch.Generator().manual_seed(0)
    >>> z = torch.randn(2, 4000, generator=g, dtype=torch.float64)
    >>> value, error = bennett(z[0] + 2.5, -z[1] - 3.5)  # log weights N(3 ∓ 1/2, 1)
    >>> abs(value - 3) < 5 * error < 0.2
    True
    """
    up, shift = widen(up), math.log(len(down) / len(up))
    ends, low, high = -widen(down), -math.inf, math.inf
    finite = torch.cat([up[up.isfinite()], ends[ends.isfinite()]])
    if not len(finite):
        return math.nan, math.inf
    low, high = finite.min().item() - 50 + shift, finite.max().item() + 50 + shift
    for _ in range(100):
        c = (low + high) / 2
        excess = torch.sigmoid(up + shift - c).sum() - torch.sigmoid(c - shift - ends).sum()
        if excess > 0:
            low = c
        else:
            high = c
    spread = 0.0
    for f in (torch.sigmoid(up + shift - c), torch.sigmoid(c - shift - ends)):
        spread += (f.square().mean() / f.mean().square() - 1).item() / len(f)
    return c, math.sqrt(max(spread, 0.0))


def ends(
    forward: Direction, reverse: Direction, middle: tuple[float, float]
) -> tuple[float, float]:
    """Return the certificate: from the low end of the forward run to the high end of the reverse
    run, Bennett's interval included.

    Where the two have changed places by more than luck allows, all of both intervals: at least one
    of them is wrong.
    """
    value, error = middle
    low, high = min(forward.low, value - 2.6 * error), max(reverse.high, value + 2.6 * error)
    if forward.value - reverse.value > 2 * math.hypot(forward.error, reverse.error):
        return min(low, reverse.low), max(high, forward.high)
    return low, high


def objections(
    forward: Direction,
    reverse: Direction,
    tolerance: float,
    rounding: float,
    rhat: float | None,
    apart: float | None = None,
) -> list[str]:
    """List everything that speaks against the bracket, in words."""
    gap, error = reverse.value - forward.value, math.hypot(forward.error, reverse.error, rounding)
    found = []
    if not math.isfinite(gap):
        found.append("a direction has no finite estimate")
    if gap > tolerance + 2 * error:
        found.append(f"the directions disagree by {gap:.2f} nats, more than {tolerance:g}")
    if gap < -max(3.5 * error, 1e-3):
        found.append(
            f"the forward run is above the reverse run by {-gap:.3f} nats, {-gap / error:.1f} "
            "standard errors: the draws are not of this energy, or a sampler does not leave it as "
            "it is"
        )
    if error > tolerance:
        found.append(f"the estimates are known to ± {error:.2f} only")
    for name, run in (("forward", forward), ("reverse", reverse)):
        if run.ess < FEWEST:
            found.append(f"the {name} weights are worth {run.ess:.1f} chains")
        if run.diverged > LOST:
            found.append(
                f"{100 * run.diverged:.0f} % of the proposals of the {name} run were not finite"
            )
    if apart is not None and not abs(apart) < APART:
        found.append(
            "chains from the forward run and from data have not met: their energies differ by "
            f"{abs(apart):.1f} standard errors"
        )
    elif apart is None and rhat is not None and not rhat < RHAT:
        found.append(
            f"the chains behind the reverse draws have not met (R-hat of the energy {rhat:.2f})"
        )
    return found

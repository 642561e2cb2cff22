"""Convergence of chains, and effective sample sizes and standard errors of their draws.

With ρ_t the correlation of draws t steps apart, taken over all chains together,

    ESS   = N / (1 + 2 Σ_t ρ_t)     effective sample size of N draws
    MCSE  = sd / √ESS               Monte Carlo standard error of a mean
    R-hat = √(var⁺ / W)             variance of all chains over that within chains; 1: they agree

W is the mean variance within chains, var⁺ = (n − 1)/n W + B/n with B/n the variance of the chains'
means. Every chain is cut into halves, so that a drift counts as disagreement. R-hat and bulk ESS
are those of normal scores (ranks of all draws, mapped to the normal scale), which exist for heavy
tails too; R-hat is also that of |x − median|, for chains that differ in width alone. Everything is
per coordinate, in float64, in blocks of bounded memory.

None of these numbers can see a mode that no chain has visited.

Source: Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021), "Rank-normalization, folding, and
localization: an improved R-hat for assessing convergence of MCMC",
https://doi.org/10.1214/20-BA1221
"""

import math
from collections.abc import Callable, Iterator
from typing import Literal, get_args

import torch
from torch import Tensor

from lowland.devices import to_float64
from lowland.samplers import Trace
from lowland.scalars import read_integer, read_number

Layout = Literal["draws chains ...", "chains draws ..."]
LAYOUTS: tuple[str, ...] = get_args(Layout)
MIN_DRAWS = 10  # of a chain: halves of 4 leave no second pair of lags, and every ESS is the same
MAX_BLOCK_SIZE = 2**20  # numbers worked on at once; about ten times their 8 bytes are in use
TAILS = (0.05, 0.95)


def rhat(x: Trace | Tensor, *, layout: Layout | None = None) -> Tensor:
    """Return R-hat per coordinate (*event): 1 where chains agree, above 1.01 where not yet.

        max(√(var⁺ / W) of the normal scores,  the same of |x − median|),      on half chains

    x: a trace with draws, or a tensor that names its layout. Chains that stand still in different
    places give inf, a coordinate that never moved gives nan. Raises ValueError for a tensor without
    layout, fewer than 10 draws per chain, or draws that are not finite. Source: Vehtari et al.
    (2021), https://doi.org/10.1214/20-BA1221

    >>> import torch
    >>> x = torch.randn(500, 4, 2, generator=torch.Generator().manual_seed(0))
    >>> bool((rhat(x, layout="draws chains ...") < 1.01).all())
    True
    >>> x[:, 0] += 3  # one chain of four is elsewhere
    >>> bool((rhat(x, layout="draws chains ...") > 1.2).all())
    True
    """
    return per_coordinate(x, _rhat, layout=layout)


def ess(x: Trace | Tensor, kind: str | float = "bulk", *, layout: Layout | None = None) -> Tensor:
    """Return the effective sample size per coordinate (*event), of all chains together.

        ESS = N / (−1 + 2 Σ_k P_k),   P_k = ρ_2k + ρ_2k+1 up to the first P_k ≤ 0, made monotone

    kind: "bulk", of the normal scores; "tail", the smaller one of the 5 % and 95 % quantiles;
    "mean" and "sd", of x and (x − mean)²; a number p in (0, 1), of that quantile. At most N log10 N
    (draws that repel each other can be worth more than independent ones). Nan where nothing moves;
    a quantile that is the largest of all draws has no tail and is left to the other one. Raises
    ValueError as `rhat` does. Sources: Vehtari et al. (2021), https://doi.org/10.1214/20-BA1221;
    the sum over pairs: Geyer (1992), https://doi.org/10.1214/ss/1177011137

    >>> import torch
    >>> steps = torch.randn(2000, 4, generator=torch.Generator().manual_seed(0))
    >>> x = torch.zeros(2000, 4)
    >>> for t in range(1, 2000):
    ...     x[t] = 0.8 * x[t - 1] + steps[t]
    >>> 700 < ess(x, "mean", layout="draws chains ...").item() < 1100  # 8000 · 0.2 / 1.8 = 889
    True
    """
    if _is_probability(kind):
        return per_coordinate(x, lambda part: _ess_at(part, float(kind)), layout=layout)
    found = {"bulk": _ess_bulk, "tail": _ess_tail, "mean": _ess_mean, "sd": _ess_sd}.get(str(kind))
    if found is None:
        raise ValueError(
            f"kind is {kind!r}; 'bulk', 'tail', 'mean', 'sd' or a number between 0 and 1 is "
            "allowed; leave it out for 'bulk', or give 0.5 for the median"
        )
    return per_coordinate(x, found, layout=layout)


def mcse(x: Trace | Tensor, kind: str | float = "mean", *, layout: Layout | None = None) -> Tensor:
    """Return the Monte Carlo standard error of an average, per coordinate (*event).

        mean: sd / √ESS        sd: √((m₄ − m₂²) / (4 m₂ ESS)), m central moments, ESS of (x − mean)²
        quantile p: half the distance of the draws at the 16 % and 84 % quantiles of
        Beta(ESS p + 1, ESS (1 − p) + 1)

    kind: "mean", "sd", or p in (0, 1) for that quantile. Raises ValueError as `rhat` does.
    Sources: Vehtari et al. (2021), https://doi.org/10.1214/20-BA1221; the ESS of the sd, which
    draws that repel each other need: https://github.com/stan-dev/posterior/pull/266

    >>> import torch
    >>> x = torch.randn(1000, 4, generator=torch.Generator().manual_seed(0))
    >>> bool((mcse(x, layout="draws chains ...") - 1 / 4000**0.5).abs() < 0.002)
    True
    """
    if _is_probability(kind):
        return per_coordinate(x, lambda part: _mcse_quantile(part, float(kind)), layout=layout)
    found = {"mean": _mcse_mean, "sd": _mcse_sd}.get(str(kind))
    if found is None:
        raise ValueError(
            f"kind is {kind!r}; 'mean', 'sd' or a number between 0 and 1 is allowed; "
            f"leave it out for the mean, or give 0.5 for the median"
        )
    return per_coordinate(x, found, layout=layout)


def autocorrelation(x: Trace | Tensor, lags: int, *, layout: Layout | None = None) -> Tensor:
    """Return correlations of draws 0, 1, ..., lags steps apart, around the mean of all chains.

        ρ_t = Σ_i (x_i − m)(x_{i+t} − m) / Σ_i (x_i − m)²

    Shape (lags + 1, *event). The common mean shows chains in different places as a correlation that
    does not die out. Raises ValueError for lags outside 0 to draws − 1, and as `rhat` does. Source:
    https://en.wikipedia.org/wiki/Autocorrelation#Estimation (with divisor n, which keeps |ρ| ≤ 1)

    >>> import torch
    >>> x = torch.tensor([1.0, -1.0]).repeat(50)[:, None]
    >>> autocorrelation(x, 2, layout="draws chains ...")
    tensor([ 1.0000, -0.9900,  0.9800], dtype=torch.float64)
    """
    lags = read_integer("lags", lags, least=0, most=len(_orient(x, layout)) - 1)

    def correlation(part: Tensor) -> Tensor:
        covariance = _autocovariance(part - part.mean((1, 2), keepdim=True))
        return (
            (covariance[:, : lags + 1] / covariance[:, :1])
            .masked_fill(_constant(part)[:, None], math.nan)
            .T
        )

    return per_coordinate(x, correlation, layout=layout)


# --------------------------------------------------------------------------- layout, blocks, checks


def _is_probability(kind: object) -> bool:
    """Tell whether a number between 0 and 1 came, of Python, of NumPy or as a tensor."""
    try:
        return 0 < read_number("kind", kind) < 1
    except ValueError:
        return False


def _orient(x: Trace | Tensor, layout: str | None) -> Tensor:
    """Return the draws as (draws, chains, *event); a bare tensor has to name its layout."""
    if isinstance(x, Trace):
        if layout is not None:
            raise ValueError(
                f"a trace came with layout={layout!r}; a trace knows its own layout; leave layout "
                "out"
            )
        return x.draws
    if not isinstance(x, Tensor) or x.dim() < 2 or x.is_complex():
        shape = f" of shape {tuple(x.shape)} and {x.dtype}" if isinstance(x, Tensor) else ""
        raise ValueError(
            f"the draws are a {type(x).__name__}{shape}; a Trace or a real tensor with the "
            "axes draws, chains and then the event's is needed; put a single chain into shape with "
            "x.unsqueeze(1), an array with torch.as_tensor"
        )
    if layout not in LAYOUTS:
        raise ValueError(
            f"a bare tensor of shape {tuple(x.shape)} came with layout={layout!r}; it has to name "
            "its axes: 'draws chains ...' for (draws, chains, *event), as sample keeps them, or "
            "'chains draws ...'; pass the Trace itself or say the layout, which is not guessed "
            "because, read across, a few chains that hardly move look like many good draws"
        )
    return x if layout == LAYOUTS[0] else x.transpose(0, 1)


def _coordinates(x: Trace | Tensor, layout: str | None) -> tuple[Tensor, torch.Size]:
    """Return draws, checked, as (draws, chains, coordinates), and the shape of an event."""
    x = _orient(x, layout).detach()
    (draws, chains), event = x.shape[:2], x.shape[2:]
    if draws < MIN_DRAWS or chains < 1:
        raise ValueError(
            f"there are {draws} draws of {chains} chains; at least {MIN_DRAWS} draws of at least "
            "one chain are needed; run longer, thin less, or check which axis holds the draws"
        )
    if not math.prod(event):
        raise ValueError(
            f"events have shape {tuple(event)} and no coordinate; at least one is needed; look at "
            "the draws"
        )
    flat = x.reshape(draws, chains, math.prod(event))
    rows = max(MAX_BLOCK_SIZE // flat[0].numel(), 1)
    bad = sum(int((~part.isfinite().all(2)).sum()) for part in flat.split(rows))
    if bad:
        raise ValueError(
            f"{bad} of {draws * chains} draws are not finite; all must be; find out where the "
            "energy lets chains escape"
        )
    return flat, event


def _blocks(x: Tensor) -> Iterator[Tensor]:
    """Yield float64 pieces (some coordinates, chains, draws) of about MAX_BLOCK_SIZE numbers."""
    for part in x.split(max(MAX_BLOCK_SIZE // (len(x) * x.shape[1]), 1), dim=2):
        yield to_float64(part.permute(2, 1, 0).contiguous())


def per_coordinate(
    x: Trace | Tensor, statistic: Callable[[Tensor], Tensor], *, layout: Layout | None = None
) -> Tensor:
    """Apply a statistic to every coordinate, in blocks of bounded memory: (..., *event).

    statistic: from float64 (coordinates, chains, draws) to (..., coordinates). Raises ValueError as
    `rhat` does.

    >>> x = torch.arange(40.0).view(20, 1, 2)
    >>> per_coordinate(x, lambda part: part.mean((1, 2)), layout="draws chains ...")
    tensor([19., 20.], dtype=torch.float64)
    """
    flat, event = _coordinates(x, layout)
    found, done = torch.empty(0), 0
    for part in _blocks(flat):
        values = statistic(part)
        if not done:  # one tensor for all: small ones from every block would fragment the heap
            found = values.new_empty(*values.shape[:-1], flat.shape[2])
        found[..., done : done + len(part)] = values
        done += len(part)
    return found.reshape(found.shape[:-1] + event)


# -------------------------------------------------- on blocks (coordinates, chains, draws), float64


def _constant(x: Tensor) -> Tensor:
    return x.amax((1, 2)) == x.amin((1, 2))


def _halves(x: Tensor) -> Tensor:
    """Cut every chain in two; the middle one of an odd number of draws is dropped."""
    half = x.shape[2] // 2
    return torch.cat([x[..., :half], x[..., -half:]], 1)


def _normal_scores(x: Tensor) -> Tensor:
    """Return Φ⁻¹((r − 3/8) / (N + 1/4)) of the ranks r over all chains, ties at their mean rank."""
    rows = x.flatten(1)
    ordered, order = rows.sort(1)
    size = rows.shape[1]
    place = torch.arange(size, device=x.device)
    # where a run of ties begins, ends
    edges = torch.nn.functional.pad(ordered[:, 1:] != ordered[:, :-1], (1, 1), value=True)
    first = torch.where(edges[:, :-1], place, 0).cummax(1).values
    last = torch.where(edges[:, 1:], place, size).flip(1).cummin(1).values.flip(1)
    rank = torch.arange(2 * size - 1, dtype=x.dtype, device=x.device) / 2 + 1  # by first + last
    scores = torch.special.ndtri((rank - 3 / 8) / (size + 1 / 4))
    return torch.empty_like(rows).scatter_(1, order, scores[first + last]).view_as(x)


def _fold(x: Tensor) -> Tensor:
    """Return |x − median|, the median over all chains."""
    rows, size = x.flatten(1), x.shape[1] * x.shape[2]
    median = (rows.kthvalue((size + 1) // 2, 1).values + rows.kthvalue(size // 2 + 1, 1).values) / 2
    return (x - median[:, None, None]).abs()


def _variance_ratio(x: Tensor) -> Tensor:
    """Return √(var⁺ / W)."""
    n, between, within = x.shape[2], x.mean(2).var(1), x.var(2).mean(1)
    return ((n - 1) / n + between / within).sqrt()


def _rhat(x: Tensor) -> Tensor:
    halves = _halves(x)
    bulk, width = (_variance_ratio(_normal_scores(part)) for part in (halves, _fold(halves)))
    # of two values equally far from the median the fold is constant: nan, and the bulk decides
    return torch.fmax(bulk, width)


def _autocovariance(x: Tensor) -> Tensor:
    """Average Σ_i x_i x_{i+t} / n, t = 0 ... n − 1, over centred chains: (coordinates, n)."""
    n = x.shape[2]
    # zeros keep the end of a chain from meeting its beginning
    size = 2 ** math.ceil(math.log2(2 * n))
    wave = torch.fft.rfft(x, n=size)
    power = (wave.real.square() + wave.imag.square()).mean(1)
    return torch.fft.irfft(power, n=size)[:, :n] / n


def _ess(x: Tensor) -> Tensor:
    """Return the effective sample size of half chains, by Geyer's initial monotone sequence.

    ρ_t = 1 − (W − mean autocovariance at t) / var⁺. Pairs of lags are summed up to the first that
    is not positive, each at most as large as the one before; of that first one the even lag still
    counts once if it is positive. The last lags, means of one or two products, are left out.
    """
    _, chains, n = x.shape
    means = x.mean(2, keepdim=True)
    covariance = _autocovariance(x - means)
    within = covariance[:, :1] * n / (n - 1)
    rho = 1 - (within - covariance) / (covariance[:, :1] + means.var(1))
    rho[:, 0] = 1
    last = (n - 3) // 2
    even, odd = rho[:, 0 : 2 * last + 1 : 2], rho[:, 1 : 2 * last + 2 : 2]
    pairs = even + odd
    ended = pairs <= 0
    stop = torch.where(ended.any(1), ended.int().argmax(1), last).unsqueeze(1)
    late = torch.arange(last + 1, device=x.device) >= stop
    summed = pairs.cummin(1).values.masked_fill(late, 0).sum(1)
    rest = torch.where((even > 0) | (pairs >= 0), even, 0).gather(1, stop).squeeze(1)
    total = chains * n
    found = total / (2 * summed - 1 + rest).clamp(min=1 / math.log10(total))
    return found.masked_fill(_constant(x), math.nan)


def _ess_bulk(x: Tensor) -> Tensor:
    return _ess(_normal_scores(_halves(x)))


def _ess_mean(x: Tensor) -> Tensor:
    return _ess(_halves(x))


def _ess_sd(x: Tensor) -> Tensor:
    return _ess(_halves((x - x.mean((1, 2), keepdim=True)).square()))


def _ess_at(x: Tensor, p: float) -> Tensor:
    """Return the ESS of the quantile p: that of the indicator of x ≤ the draw below it."""
    rows = x.flatten(1)
    below = rows.kthvalue(math.floor((rows.shape[1] - 1) * p) + 1, 1).values
    return _ess(_halves((x <= below[:, None, None]).to(x.dtype)))


def _ess_tail(x: Tensor) -> Tensor:
    return torch.fmin(*(_ess_at(x, p) for p in TAILS))


def _mcse_mean(x: Tensor) -> Tensor:
    return x.flatten(1).std(1) / _ess_mean(x).sqrt()


def _mcse_sd(x: Tensor) -> Tensor:
    squares = (x - x.mean((1, 2), keepdim=True)).square().flatten(1)
    variance = squares.mean(1)
    return ((squares.square().mean(1) - variance.square()) / (4 * variance * _ess_sd(x))).sqrt()


def _mcse_quantile(x: Tensor, p: float) -> Tensor:
    from scipy.special import betaincinv

    ordered = x.flatten(1).sort(1).values
    size, worth = ordered.shape[1], _ess_at(x, p)
    one_sigma = [math.erfc(s / math.sqrt(2)) / 2 for s in (1, -1)]
    known = worth.nan_to_num(1.0).cpu().numpy()
    low, high = (
        torch.as_tensor(betaincinv(known * p + 1, known * (1 - p) + 1, q)).to(x) * size - 1
        for q in one_sigma
    )
    below = ordered.gather(1, low.clamp(min=0).floor().long().unsqueeze(1))
    above = ordered.gather(1, high.clamp(max=size - 1).ceil().long().unsqueeze(1))
    return ((above - below) / 2).squeeze(1).masked_fill(worth.isnan(), math.nan)

"""Base distributions, where annealing paths begin: exact draws and log Z, and fitted to data.

    Uniform       on a box, on bits, on classes          E(x) = 0
    Bernoulli     independent bits E(x) = −Σ_i a_i x_i, a_i = log p_i / (1 − p_i)
    Categorical   independent classes                    E(x) = −Σ_i log p_i[x_i]
    Normal        independent numbers on the line        E(x) = ½ Σ_i ((x_i − m_i) / s_i)²

`fit_base` chooses one for a domain and fits it; `targets.Gaussian` is the one with a full
covariance. On discrete domains sites are independent, so one color of block Gibbs holds them all.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lowland.domain import Domain, binary, categorical, real
from lowland.energy import ConditionLike, Energy, Gibbs
from lowland.energy.placement import widen
from lowland.energy.scales import measure_columns
from lowland.energy.sizes import read_numbers
from lowland.registry import Plain
from lowland.scalars import read_integer
from lowland.targets.continuous import Gaussian

Numbers = Tensor | Sequence["float | Numbers"]


def _one_color(shape: Sequence[int]) -> Tensor:
    return torch.ones(1, *shape, dtype=torch.bool)


class Uniform(Energy):
    """Uniform distribution on a bounded domain: E(x) = 0, log Z = log of its volume or size.

    Raises ValueError for the real line and for domains without an event shape.

    >>> from lowland.domain import binary
    >>> Uniform(binary(3)).log_z == math.log(8)
    True
    """

    def __init__(self, domain: Domain | Plain) -> None:
        super().__init__(domain)
        if self.domain.kind == "real" or not self.domain.shape:
            raise ValueError(
                f"the domain is {self.domain}; a uniform distribution needs a box, binary or "
                "categorical "
                "one with an event shape; use Normal or Gaussian on the real line"
            )
        lo, hi = self.domain.lo, self.domain.hi
        widths = {"box": hi - lo, "binary": 2, "categorical": self.domain.classes}
        width = widths[self.domain.kind]
        self.log_z = math.prod(self.domain.shape) * math.log(width)

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        return x.new_zeros(len(x))

    def value_and_score(self, x: Tensor, c: ConditionLike = None) -> tuple[Tensor, Tensor]:
        """Return energies (B,) and scores: zeros."""
        return x.new_zeros(len(x)), torch.zeros_like(x)

    @property
    def gibbs(self) -> Gibbs | None:
        if self.domain.kind == "box":
            return None
        return Gibbs(_one_color(self.domain.shape), self._conditional, self._one_hot_energy)

    def _one_hot_energy(self, z: Tensor, c: ConditionLike = None) -> Tensor:
        return z.new_zeros(len(z))

    def _conditional(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        if self.domain.kind == "binary":
            return torch.zeros_like(x)
        return x.new_zeros(*x.shape, self.domain.classes)

    def draw(
        self, count: int, generator: torch.Generator, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Draw exactly (count, *event)."""
        return self.domain.draw(count, generator, dtype=dtype)


class Bernoulli(Energy):
    """Independent bits:  E(x) = −Σ a_i x_i  with a = log p/(1 − p),  log Z = Σ log(1 + exp a_i).

    probabilities: of a one, (*event), each strictly between 0 and 1.

    >>> import torch
    >>> coin = Bernoulli((0.5, 0.5))
    >>> coin(torch.tensor([[0.0, 1.0]])).item() + coin.log_z == math.log(4)
    True
    """

    logits: Tensor

    def __init__(self, probabilities: Numbers) -> None:
        p = read_numbers("probabilities", probabilities)
        _check_probabilities(p)
        super().__init__(binary(*p.shape))
        self.probabilities = probabilities
        self.register_buffer("logits", (p.log() - (-p).log1p()).to(torch.get_default_dtype()))
        self.log_z = softplus(self.logits.double()).sum().item()  # of the logits as rounded

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        return -(x.flatten(1) @ self.logits.to(x.dtype).flatten())

    def value_and_score(self, x: Tensor, c: ConditionLike = None) -> tuple[Tensor, Tensor]:
        """Return energies (B,) and scores a."""
        return self(x), self.logits.to(x.dtype).expand_as(x).clone()

    @property
    def gibbs(self) -> Gibbs:
        return Gibbs(_one_color(self.domain.shape), self.conditional)

    def conditional(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        """Return the log-odds a (B, *event) of every site."""
        return self.logits.to(x.dtype).expand_as(x)

    def draw(
        self, count: int, generator: torch.Generator, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Draw exactly (count, *event)."""
        p = torch.sigmoid(widen(self.logits))
        shape = (read_integer("count", count, least=0), *self.domain.shape)
        u = torch.rand(shape, generator=generator, device=p.device, dtype=p.dtype)
        return (u < p).to(dtype or torch.get_default_dtype())


class Categorical(Energy):
    """Independent classes:  E(x) = −Σ_i log p_i[x_i],  log Z = 0 (up to the rounding of log p).

    probabilities: (*event, K), above 0, summing to one over the last axis. Points (B, *event) hold
    classes as floats.

    >>> import torch
    >>> die = Categorical([[0.5, 0.25, 0.25]])
    >>> values = die(torch.tensor([[0.0], [2.0]])).exp()
    >>> torch.allclose(values, torch.tensor([2.0, 4.0]))
    True
    """

    logits: Tensor

    def __init__(self, probabilities: Numbers) -> None:
        p = read_numbers("probabilities", probabilities)
        _check_probabilities(p)
        if p.dim() < 2 or not torch.allclose(p.sum(-1), torch.ones((), dtype=p.dtype), atol=1e-6):
            raise ValueError(
                f"probabilities of shape {tuple(p.shape)} came; they must be (*event, K) and sum "
                "to one over the last axis; divide them by their sum"
            )
        super().__init__(categorical(p.shape[-1], *p.shape[:-1]))
        self.probabilities = probabilities
        self.register_buffer("logits", p.log().to(torch.get_default_dtype()))
        self.log_z = self.logits.double().logsumexp(-1).sum().item()

    def one_hot_energy(self, z: Tensor, c: ConditionLike = None) -> Tensor:
        """Return the energy (B,) of one-hot vectors (B, *event, K), linear in them."""
        return -(z * self.logits.to(z.dtype)).flatten(1).sum(1)

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        table = self.logits.to(x.dtype).expand(*x.shape, -1)
        return -table.gather(-1, x.long().unsqueeze(-1)).flatten(1).sum(1)

    @property
    def gibbs(self) -> Gibbs:
        return Gibbs(_one_color(self.domain.shape), self.conditional, self.one_hot_energy)

    def conditional(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        """Return log p (B, *event, K) of every site."""
        return self.logits.to(x.dtype).expand(*x.shape, -1)

    def draw(
        self, count: int, generator: torch.Generator, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Draw exactly (count, *event)."""
        count = read_integer("count", count, least=0)
        p = widen(self.logits).softmax(-1)
        drawn = torch.multinomial(p.flatten(0, -2), count, replacement=True, generator=generator)
        return drawn.T.reshape(count, *self.domain.shape).to(dtype or torch.get_default_dtype())


class Normal(Energy):
    """Independent normal numbers:  E(x) = ½ Σ ((x_i − m_i) / s_i)², log Z = Σ log s_i + ½ n log 2π.

    mean, scale: (*event), scales above 0.

    >>> Normal([[0.0]], [[1.0]]).log_z == 0.5 * math.log(2 * math.pi)
    True
    """

    centre: Tensor
    width: Tensor

    def __init__(self, mean: Numbers, scale: Numbers) -> None:
        centre = read_numbers("mean", mean).to(torch.get_default_dtype())
        width = read_numbers("scale", scale).to(torch.get_default_dtype())
        if centre.shape != width.shape or not bool((width > 0).all()):
            raise ValueError(
                f"mean and scale have shapes {tuple(centre.shape)} and {tuple(width.shape)}; both "
                "must be (*event), the scale above 0; correct them"
            )
        super().__init__(real(*centre.shape))
        self.mean, self.scale = mean, scale
        self.register_buffer("centre", centre)
        self.register_buffer("width", width)
        log_tau = math.log(2 * math.pi)
        self.log_z = width.double().log().sum().item() + 0.5 * centre.numel() * log_tau

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        z = (x - self.centre.to(x.dtype)) / self.width.to(x.dtype)
        return 0.5 * z.flatten(1).square().sum(1)

    def value_and_score(self, x: Tensor, c: ConditionLike = None) -> tuple[Tensor, Tensor]:
        """Return energies (B,) and scores −(x − m) / s²."""
        width = self.width.to(x.dtype)
        z = (x - self.centre.to(x.dtype)) / width
        return 0.5 * z.flatten(1).square().sum(1), -z / width

    def draw(
        self, count: int, generator: torch.Generator, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Draw exactly (count, *event)."""
        shape = (read_integer("count", count, least=0), *self.domain.shape)
        z = torch.randn(shape, generator=generator, device=self.centre.device, dtype=dtype)
        return self.centre.to(z.dtype) + self.width.to(z.dtype) * z


def _check_probabilities(p: Tensor) -> None:
    if not p.dim() or not bool(((p > 0) & (p < 1)).all()):
        low, high = min(p.flatten().tolist(), default=0.0), max(p.flatten().tolist(), default=0.0)
        raise ValueError(
            f"probabilities of shape {tuple(p.shape)} came, from {low:g} to {high:g}; each must "
            "lie strictly between 0 and 1; smooth them, as fit_base does"
        )


BaseDistribution = Uniform | Bernoulli | Categorical | Normal | Gaussian


def fit_base(domain: Domain, data: Tensor | None = None) -> BaseDistribution:
    """Fit the base distribution of a domain to data (N, *event), if any.

        binary        p_i = (ones_i + 1) / (N + 2)
        categorical   p_i[k] = (count_i[k] + 1) / (N + K)
        real          the Gaussian of the same mean and covariance for vectors with N ≥ 10 d, else a
                      Normal with the same mean and spread of every coordinate; coordinates that
                      never change get spread 1
        box           uniform, whatever the data, and so are discrete domains without data

    Raises ValueError for the real line without data, or with fewer than two points.

    >>> import torch
    >>> from lowland.domain import binary
    >>> fit_base(binary(2), torch.tensor([[1.0, 0.0], [1.0, 1.0]])).probabilities
    tensor([0.7500, 0.5000], dtype=torch.float64)
    """
    if domain.kind == "box" or (data is None and domain.kind != "real"):
        return Uniform(domain)
    few = domain.kind == "real" and (data is None or len(data) < 2)
    if data is None or few or (domain.shape and data.shape[1:] != domain.shape):
        came = "no data" if data is None else f"data of shape {tuple(data.shape)}"
        raise ValueError(
            f"{came} came to fit a base measure on {domain}; it needs at least two points of that "
            "event shape on the real line; pass data, or a base with exact draws and log_z"
        )
    x, n = data.cpu().double(), len(data)
    if domain.kind == "binary":
        return Bernoulli((x.sum(0) + 1) / (n + 2)).to(data.device)
    if domain.kind == "categorical":
        counts = torch.stack([(x == k).double().sum(0) for k in range(domain.classes)], -1)
        return Categorical((counts + 1) / (n + domain.classes)).to(data.device)
    mean, spread = measure_columns(x)
    if x.dim() == 2 and n >= 10 * x.shape[1]:
        covariance = torch.cov(x.T).view(x.shape[1], x.shape[1])
        variance = torch.where(covariance.diagonal() > 0, 1e-6 * spread.square(), 1.0)
        covariance = (covariance + covariance.T) / 2 + torch.diag(variance)
        return Gaussian(mean.tolist(), covariance.tolist()).to(data.device)
    return Normal(mean, spread).to(data.device)

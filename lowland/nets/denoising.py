"""Energies tied to a denoiser: the quality of a diffusion model, from a scalar.

Let D(x, σ) be the expected clean point behind x = x₀ + σ ξ. The score is (D − x) / σ² (Tweedie),
but a network that gives D is the gradient of nothing in general. Half the squared distance to the
network's guess,

    E(x, σ) = ‖x − D(x, σ)‖² / 2σ²,

is an energy, whatever the network. Where D projects on the data, as it nearly does at small σ, and
where it hardly depends on x, as at large σ, ∇E is (x − D) / σ² itself. A network trained as a
denoiser, which costs one gradient, is therefore nearly an energy already, and what is missing is
trained through the true gradient, which costs two. The form: Salimans & Ho (2021),
https://openreview.net/forum?id=9AS-TF2jRNb

Of a point that is question and answer at once, the energy may be of the answer alone: E(y | x, σ),
with noise on y and none on x. Then nothing has to be learned of how questions are distributed, and
they are read as sharply at the first noise level as at the last (Batzolis et al. (2021),
https://arxiv.org/abs/2111.13606, weigh this against noise on both).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lowland.domain import Domain
from lowland.energy import ConditionLike, Energy, Learner, NoiseCondition
from lowland.energy.scales import measure_columns
from lowland.energy.sizes import read_choice, read_sizes
from lowland.nets.unet import NoiseMLPDenoiser, UNet
from lowland.nets.vectors import flat_size, noise_levels
from lowland.registry import Plain, register
from lowland.scalars import read_integer

EXAMPLES = 64  # questions of the data that are kept, for samples to answer


class Denoiser(Energy):
    """Energy tied to a denoiser. Abstract: subclasses set `net`, a module f(z, ln σ) → (B, *event).

        E(x, σ) = ‖x − D(x, σ)‖² / 2σ²,     D = μ + (s² z + σ s f(z, ln σ)) / r,
        z = (x − μ) / r,                    r² = σ² + s²

    The mean μ (*event) and the spread s of all numbers about it are read from the data before the
    first update (`init_from_data`), and f = 0, where training begins, is the best denoiser of N(μ,
    s²). Scaling: Karras et al. (2022), https://arxiv.org/abs/2206.00364

    question: entries along the first axis of an event (channels of an image) that are given rather
    than modelled: E(y | x, σ). They are shown without noise, as (x − μ) / s, have no part in the
    distance, and no slope. Samples answer questions of the data, a few of which are kept
    (`examples`); `tasks.predict` answers yours.
    """

    net: nn.Module
    centre: Tensor
    spread: Tensor
    examples: Tensor
    asked: Tensor | None

    def __init__(self, domain: Domain | Plain, question: Sequence[int] = ()) -> None:
        super().__init__(domain)
        if self.domain.kind not in ("real", "box") or not self.domain.shape:
            raise ValueError(
                f"the domain is {self.domain}; noise is added to real numbers of a known shape; "
                "use real(...) or box(...)"
            )
        low, high = (self.domain.lo, self.domain.hi) if self.domain.kind == "box" else (-2.0, 2.0)
        self.register_buffer("centre", torch.full(self.domain.shape, (low + high) / 2))
        self.register_buffer("spread", torch.tensor((high - low) / 4))
        first = self.domain.shape[0]
        self.question = read_sizes("question", question, least=None, empty=True)
        different = set(self.question)
        if not different < set(range(first)) or len(different) < len(self.question):
            raise ValueError(
                f"the question is {list(question)} of points with {first} entries along their "
                f"first axis; it is some of 0 to {first - 1}, each once, and not all of them; name "
                "those that are given"
            )
        asked = torch.tensor([k not in self.question for k in range(first)]).view(
            -1, *[1] * (len(self.domain.shape) - 1)
        )
        self.register_buffer("asked", asked if self.question else None, persistent=False)
        if self.question:
            self.register_buffer(
                "examples", torch.zeros(EXAMPLES, len(self.question), *self.domain.shape[1:])
            )

    @property
    def condition(self) -> NoiseCondition:
        return NoiseCondition(self.start, self.denoise, self.question, self.asked)

    @property
    def learner(self) -> Learner:
        return Learner(init_from_data=self.init_from_data)

    def init_from_data(self, x: Tensor) -> None:
        """Set μ, s (of the answers, where asked for) and examples from data x (N, *event)."""
        wide = x.double()
        mean = wide.mean(0)
        self.centre.copy_(mean)
        away = wide - mean if self.asked is None else (wide - mean)[:, self.asked.flatten()]
        self.spread.copy_(measure_columns(away.flatten()).scale)
        if self.question:
            rows = torch.arange(EXAMPLES, device=x.device) % len(x)
            self.examples.copy_(x[rows][:, list(self.question)])

    def start(self, count: int, sigma: float, generator: torch.Generator) -> Tensor:
        """Draw (count, *event) from N(μ, σ² + s²), close to the distribution at a large σ.

        Given entries are examples of the data.
        """
        shape = (count, *self.domain.shape)
        noise = torch.randn(
            shape, generator=generator, device=self.centre.device, dtype=self.centre.dtype
        )
        x = self.centre + (sigma**2 + self.spread**2).sqrt() * noise
        if self.question:
            rows = torch.randint(EXAMPLES, (count,), generator=generator, device=self.centre.device)
            x[:, list(self.question)] = self.examples[rows]
        return x

    def denoise(self, x: Tensor, c: ConditionLike) -> Tensor:
        """Return the guess D (B, *event) of the clean points behind x, at noise levels c."""
        sigma, residual = self._residual(x, c)
        return x - sigma * residual

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        _, residual = self._residual(x, c)
        return 0.5 * residual.square().flatten(1).sum(1)

    def _residual(self, x: Tensor, c: ConditionLike) -> tuple[Tensor, Tensor]:
        """Return σ (B, 1, ...) and (x − D) / σ (B, *event), in the precision of x."""
        sigma = noise_levels(c, x).view(-1, *[1] * (x.dim() - 1))
        radius = (sigma.square() + self.spread.square()).sqrt()
        z = (x - self.centre) / radius
        if self.asked is not None:
            z = torch.where(self.asked, z, (x.detach() - self.centre) / self.spread)
        guess = self.net(z, sigma.flatten().log()).to(x.dtype)
        residual = sigma / radius * z - self.spread / radius * guess
        return sigma, residual if self.asked is None else residual * self.asked


@register("energy")
class DenoiserMLP(Denoiser):
    """Noise-conditional energy of vectors, tied to a perceptron (see `Denoiser`).

    hidden: widths of the SiLU layers; question: entries that are given. The condition c is σ, one
    per row or one for all. `denoise` gives the guess alone.

    >>> import torch
    >>> from lowland.domain import real
    >>> DenoiserMLP(real(2), hidden=(8,)).given(0.1)(torch.zeros(3, 2)).shape
    torch.Size([3])
    """

    def __init__(
        self,
        domain: Domain | Plain,
        hidden: Sequence[int] = (128, 128),
        question: Sequence[int] = (),
    ) -> None:
        super().__init__(domain, question)
        self.hidden = read_sizes("hidden", hidden)
        self.net = NoiseMLPDenoiser(flat_size(self.domain), self.hidden)


@register("energy")
class NoiseUNet(Denoiser):
    """Noise-conditional energy of images, tied to a U-Net (see `Denoiser`).

    widths: channels at half and at a quarter of the resolution; blocks: residual blocks at each
    (twice at half: down and up); dense: width of layers in the middle that see all places at once,
    so that distant strokes interact (0: none): one through eight channels, and before and after it
    one of each channel by itself, half as wide; embedding: width of the embedding of ln σ; norm:
    "rms" divides the channels at each place of the middle blocks by their root mean square, before
    ln σ enters; question: channels that are given. Images of any size:
    sides are padded to a multiple of 4. The condition c is σ, one per row or one for all.
    `denoise` gives the guess alone. Source of the norm: Karras et al. (2018),
    https://arxiv.org/abs/1710.10196

    >>> import torch
    >>> from lowland.domain import box
    >>> NoiseUNet(box(0.0, 1.0, 1, 8, 8), widths=(8, 16)).given(0.1)(torch.zeros(3, 1, 8, 8)).shape
    torch.Size([3])
    """

    def __init__(
        self,
        domain: Domain | Plain,
        widths: Sequence[int] = (64, 96),
        blocks: Sequence[int] = (2, 2),
        dense: int = 256,
        embedding: int = 64,
        norm: Literal["none", "rms"] = "none",
        question: Sequence[int] = (),
    ) -> None:
        super().__init__(domain, question)
        if len(self.domain.shape) != 3:
            raise ValueError(
                f"the event shape is {self.domain.shape}; NoiseUNet takes images (channels, "
                "height, width); use DenoiserMLP"
            )
        self.widths = read_sizes("widths", widths, count=2)
        self.blocks = read_sizes("blocks", blocks, count=2)
        self.dense = read_integer("dense", dense, least=0)
        self.embedding = read_integer("embedding", embedding, least=1)
        self.norm = read_choice("norm", norm, ("none", "rms"))
        self.net = UNet(
            self.domain.shape,
            self.widths,
            self.blocks,
            self.dense,
            self.embedding,
            self.norm == "rms",
        )

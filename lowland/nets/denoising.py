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
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowland.domain import Domain
from lowland.energy import Energy, Learner, NoiseCondition
from lowland.nets.perceptron import perceptron
from lowland.nets.vectors import check_widths, flat_size
from lowland.registry import register

L = TypeVar("L", nn.Linear, nn.Conv2d)
EXAMPLES = 64  # questions of the data that are kept, for samples to answer


class Denoiser(Energy):
    """An energy of noise tied to a denoiser; subclasses set `net`, a module f(z, ln σ) of the
    event's shape.

        E(x, σ) = ‖x − D(x, σ)‖² / 2σ²,     D = μ + (s² z + σ s f(z, ln σ)) / r, z = (x − μ) / r, r²
                                            = σ² + s²

    The mean μ (*event) and the spread s of all numbers about it are read from the data before the
    first update (`init_from_data`), and f = 0, where training begins, is the best denoiser of N(μ, s²).
    Scaling: Karras et al. (2022), https://arxiv.org/abs/2206.00364

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

    def __init__(self, domain: Domain | dict[str, Any], question: Sequence[int] = ()) -> None:
        super().__init__(domain)
        if self.domain.kind not in ("real", "box") or not self.domain.shape:
            raise ValueError(
                f"the domain is {self.domain}; noise is added to real numbers of a known shape; "
                "use real(...) or box(...)"
            )
        low, high = (self.domain.lo, self.domain.hi) if self.domain.kind == "box" else (-2.0, 2.0)
        self.register_buffer("centre", torch.full(self.domain.shape, (low + high) / 2))
        self.register_buffer("spread", torch.tensor((high - low) / 4))
        first, self.question = self.domain.shape[0], tuple(question)
        if not set(self.question) < set(range(first)) or len(set(self.question)) < len(
            self.question
        ):
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
        return NoiseCondition(self.start, self.denoised, self.question, self.asked)

    @property
    def learner(self) -> Learner:
        return Learner(init_from_data=self.init_from_data)

    def init_from_data(self, x: Tensor) -> None:
        """Take μ and s (of the answers, where there is a question), and a few questions, from data
        x (N, *event).
        """
        mean = x.mean(0)
        self.centre.copy_(mean)
        away = x - mean if self.asked is None else (x - mean)[:, self.asked.flatten()]
        self.spread.copy_(away.std().clamp_min(1e-3))
        if self.question:
            rows = torch.arange(EXAMPLES, device=x.device) % len(x)
            self.examples.copy_(x[rows][:, list(self.question)])

    def start(self, count: int, sigma: float, generator: torch.Generator) -> Tensor:
        """Draws (count, *event) of N(μ, σ² + s²), which the law at a large σ is near; beside
        questions that were kept.
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

    def denoised(self, x: Tensor, c: Any) -> Tensor:
        """The network's guess D (B, *event) of the clean points behind x, at the noise levels c."""
        sigma, residual = self._residual(x, c)
        return x - sigma * residual

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        _, residual = self._residual(x, c)
        return 0.5 * residual.square().flatten(1).sum(1)

    def _residual(self, x: Tensor, c: Any) -> tuple[Tensor, Tensor]:
        """σ (B, 1, ...) and (x − D) / σ (B, *event), in the precision of x whatever that of the
        network.
        """
        if c is None:
            raise ValueError(
                "this energy needs a noise level; it learned E(x, σ); bind one with "
                "energy.given(sigma)"
            )
        sigma = (
            torch.as_tensor(c, dtype=x.dtype, device=x.device)
            .expand(len(x))
            .view(-1, *[1] * (x.dim() - 1))
        )
        radius = (sigma.square() + self.spread.square()).sqrt()
        z = (x - self.centre) / radius
        if self.asked is not None:
            z = torch.where(self.asked, z, (x.detach() - self.centre) / self.spread)
        residual = sigma / radius * z - self.spread / radius * self.net(
            z, sigma.flatten().log()
        ).to(x.dtype)
        return sigma, residual if self.asked is None else residual * self.asked


@register("energy")
class DenoiserMLP(Denoiser):
    """A noise-conditional energy of vectors, half the squared distance to the guess of a perceptron
    (see `Denoiser`).

    hidden: widths of the SiLU layers; question: entries that are given. The condition c is σ, one
    per row or one for all. `denoised` gives the guess alone.

    >>> import torch
    >>> from lowland.domain import real
    >>> DenoiserMLP(real(2), hidden=(8,)).given(0.1)(torch.zeros(3, 2)).shape
    torch.Size([3])
    """

    def __init__(
        self,
        domain: Domain | dict[str, Any],
        hidden: Sequence[int] = (128, 128),
        question: Sequence[int] = (),
    ) -> None:
        super().__init__(domain, question)
        check_widths("DenoiserMLP", hidden)
        self.hidden = tuple(hidden)
        self.net = _Told(flat_size(self.domain), self.hidden)


@register("energy")
class NoiseUNet(Denoiser):
    """A noise-conditional energy of images, half the squared distance to the guess of a U-Net (see
    `Denoiser`).

    widths: channels at half and at a quarter of the resolution; blocks: residual blocks at each
    (twice at half: down and up); dense: width of layers in the middle that see all places at once,
    so that strokes know of each other (0: none): one through eight channels, and before and after
    it one of each channel by itself, half as wide; embedding: width of what the network is told of
    ln σ; norm: "rms" divides the channels at each place of the middle blocks by their root mean
    square, before they are told of ln σ; question: channels that are given. Images of any size:
    sides are padded to a multiple of 4. The condition c is σ, one per row or one for all.
    `denoised` gives the guess alone. Source of the norm: Karras et al. (2018),
    https://arxiv.org/abs/1710.10196

    >>> import torch
    >>> from lowland.domain import box
    >>> NoiseUNet(box(0.0, 1.0, 1, 8, 8), widths=(8, 16)).given(0.1)(torch.zeros(3, 1, 8, 8)).shape
    torch.Size([3])
    """

    def __init__(
        self,
        domain: Domain | dict[str, Any],
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
        if len(widths) != 2 or len(blocks) != 2 or min(*widths, *blocks, embedding, dense + 1) < 1:
            raise ValueError(
                f"NoiseUNet was given widths {tuple(widths)}, blocks {tuple(blocks)}, dense "
                f"{dense} and embedding {embedding}; there are two resolutions and all are at "
                "least 1, dense at least 0; write for example widths=(64, 96)"
            )
        if norm not in ("none", "rms"):
            raise ValueError(f"norm is {norm!r}; NoiseUNet knows 'none' and 'rms'; choose one")
        self.widths, self.blocks, self.dense, self.embedding = (
            tuple(widths),
            tuple(blocks),
            dense,
            embedding,
        )
        self.norm = norm
        self.net = _UNet(
            self.domain.shape, self.widths, self.blocks, dense, embedding, norm == "rms"
        )


class _Told(nn.Module):
    """f(z, ln σ): a perceptron of the flattened event and what it is told of the level, silent at
    first.
    """

    def __init__(self, size: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.layers = perceptron([size + 17, *hidden, size], spectral_norm=False)
        _silent(cast(nn.Linear, self.layers[-1]))

    def forward(self, z: Tensor, level: Tensor) -> Tensor:
        return cast(Tensor, self.layers(torch.cat([z.flatten(1), _waves(level)], 1)).view_as(z))


class _UNet(nn.Module):
    """f(z, ln σ): images (B, C, H, W) to images, by way of half and a quarter of the resolution,
    with one shortcut.
    """

    def __init__(
        self,
        shape: Sequence[int],
        widths: Sequence[int],
        blocks: Sequence[int],
        dense: int,
        embedding: int,
        norm: bool,
    ) -> None:
        super().__init__()
        (channels, height, width), (wide, deep) = shape, widths
        self.told = nn.Sequential(
            nn.Linear(17, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU()
        )
        self.stem = nn.Conv2d(4 * channels, wide, 3, padding=1)
        self.down = nn.ModuleList(_Block(wide, embedding) for _ in range(blocks[0]))
        self.shrink = nn.Conv2d(wide, deep, 2, 2)
        self.middle = nn.ModuleList(_Block(deep, embedding, norm) for _ in range(blocks[1]))
        if dense:
            places = -(height // -4) * -(width // -4)
            seeing = [
                _Mix(places, dense // 2),
                _Dense(deep, places, dense, embedding),
                _Mix(places, dense // 2),
            ]
            half = blocks[1] // 2
            self.middle = nn.ModuleList([*self.middle[:half], *seeing, *self.middle[half:]])
        self.grow = nn.ConvTranspose2d(deep, wide, 2, 2)
        self.up = nn.ModuleList(_Block(wide, embedding) for _ in range(blocks[0]))
        self.out = _silent(nn.Conv2d(wide, 4 * channels, 3, padding=1))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, z: Tensor, level: Tensor) -> Tensor:
        height, width = z.shape[2:]
        told = self.told(_waves(level)).to(z.dtype)
        z = F.pixel_unshuffle(F.pad(z, (0, -width % 4, 0, -height % 4)), 2)
        h = self.stem(z.contiguous(memory_format=torch.channels_last))
        for block in self.down:
            h = block(h, told)
        passed, h = h, self.shrink(h)
        for block in self.middle:
            h = block(h, told)
        h = self.grow(h) + passed
        for block in self.up:
            h = block(h, told)
        return F.pixel_shuffle(self.out(_silu(h)), 2)[:, :, :height, :width]


class _Block(nn.Module):
    """h ↦ h + conv(silu((1 + scale(σ)) n(conv(silu(h))) + shift(σ))), the identity at first; n may
    divide by the size.
    """

    def __init__(self, width: int, embedding: int, norm: bool = False) -> None:
        super().__init__()
        self.norm = norm
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.film = _silent(nn.Linear(embedding, 2 * width))
        self.second = _silent(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, h: Tensor, told: Tensor) -> Tensor:
        inner = self.first(_silu(h))
        if self.norm:
            inner = inner * torch.rsqrt(inner.square().mean(1, keepdim=True) + 1e-3)
        scale, shift = self.film(told).to(inner.dtype)[:, :, None, None].chunk(2, 1)
        inner = torch.addcmul(shift, inner, 1 + scale)
        return cast(Tensor, h + self.second(_silu(inner)))


class _Mix(nn.Module):
    """h ↦ h + second(silu(first(h))) over the places of each channel, the same for all channels;
    the identity at first.

    Source: Tolstikhin et al. (2021), https://arxiv.org/abs/2105.01601
    """

    def __init__(self, places: int, inner: int) -> None:
        super().__init__()
        self.first = nn.Linear(places, inner)
        self.second = _silent(nn.Linear(inner, places))

    def forward(self, h: Tensor, told: Tensor) -> Tensor:
        return cast(Tensor, h + self.second(_silu(self.first(h.flatten(2)))).view(h.shape))


class _Dense(nn.Module):
    """h ↦ h + what a perceptron of all places, eight channels of each, has to say; nothing at
    first.
    """

    def __init__(self, width: int, places: int, dense: int, embedding: int, thin: int = 8) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(width, thin, 1)
        self.first = nn.Linear(thin * places, dense)
        self.film = _silent(nn.Linear(embedding, 2 * dense))
        self.second = nn.Linear(dense, thin * places)
        self.widen = _silent(nn.Conv2d(thin, width, 1))

    def forward(self, h: Tensor, told: Tensor) -> Tensor:
        thin = self.narrow(h)
        inner = self.first(_silu(thin.flatten(1)))
        scale, shift = self.film(told).to(inner.dtype).chunk(2, 1)
        inner = torch.addcmul(shift, inner, 1 + scale)
        return cast(Tensor, h + self.widen(_silu(self.second(_silu(inner)).view(thin.shape))))


def _silent(layer: L) -> L:
    """The layer with zeros for weights: what it adds, it has to learn."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(cast(Tensor, layer.bias))
    return layer


def _waves(level: Tensor) -> Tensor:
    """ln σ (B,) as numbers (B, 17) that a perceptron can work with: itself, and waves of eight
    lengths.
    """
    angles = level.unsqueeze(1) * torch.arange(1, 9, dtype=level.dtype, device=level.device) / 4
    return torch.cat([level.unsqueeze(1) / 4, angles.sin(), angles.cos()], 1)


def _silu(x: Tensor) -> Tensor:
    return cast(Tensor, _Silu.apply(x)) if torch.is_grad_enabled() else F.silu(x)


class _Silu(torch.autograd.Function):
    """SiLU whose second derivative is written by hand: autograd's own takes twice as many passes
    over memory.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return F.silu(x)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        return cast(Tensor, _SiluSlope.apply(slopes[0], ctx.saved_tensors[0]))


class _SiluSlope(torch.autograd.Function):
    """g silu'(x); its slope in x is g silu''(x) = g t (1 − t) (2 + x (1 − 2 t)), t the logistic
    function of x.
    """

    @staticmethod
    def forward(ctx: Any, slope: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(slope, x)
        return cast(Tensor, torch.ops.aten.silu_backward(slope, x))

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor]:
        slope, x = ctx.saved_tensors
        t = torch.sigmoid(x)
        bent = torch.ops.aten.sigmoid_backward(outer[0] * slope, t) * torch.addcmul(
            x + 2, x, t, value=-2
        )
        return torch.ops.aten.silu_backward(outer[0], x), bent

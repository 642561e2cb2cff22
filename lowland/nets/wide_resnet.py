"""The wide residual network, whose K logits are K energies: the network of joint energy models.

A pre-activation block adds to what it was given, x ↦ shortcut(x) + conv(a(conv(a(x)))), and three
stages of such blocks halve the image twice while the channels double. Batch norm is left out: it
would make the energy of one image depend on the others. Group norm looks at one image alone and is
allowed. Dropout is left out as well: an energy is a function of x.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowland.domain import Domain
from lowland.energy import ConditionLike, LabelCondition
from lowland.energy.sizes import check_memory, read_choice, read_flag, read_sizes
from lowland.nets.class_energy import ClassEnergy
from lowland.nets.images import ConvNet, image_shape
from lowland.nets.vectors import to_unit_box
from lowland.registry import Plain, register
from lowland.scalars import read_integer, read_number

GROUPS = 8  # of group norm: 8 divides every width
MAX_DEPTH = 1000  # of what was ever trained


def _norm(channels: int, wanted: bool) -> nn.Module:
    return nn.GroupNorm(GROUPS, channels) if wanted else nn.Identity()


class _Block(nn.Module):
    """x ↦ shortcut(x) + conv(a(conv(a(x)))), a = SiLU after `norm`; the first may stride."""

    def __init__(self, into: int, out: int, stride: int, norm: bool) -> None:
        super().__init__()
        self.before, self.between = _norm(into, norm), _norm(out, norm)
        self.first = nn.Conv2d(into, out, 3, stride, padding=1)
        self.second = nn.Conv2d(out, out, 3, padding=1)
        self.shortcut: nn.Module = nn.Identity()
        if into != out or stride > 1:
            self.shortcut = nn.Conv2d(into, out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        a = F.silu(self.before(x))
        return self.shortcut(x) + self.second(F.silu(self.between(self.first(a))))


@register("energy")
class WideResNet(ClassEnergy):
    """Wide residual network WRN-depth-width with one head per class, without batch norm.

        e_k(x) = −s · f_k(x),    f = linear(mean over space of SiLU(blocks(z)))

    z is x mapped from its box to [−1, 1]; SiLU stands for ReLU, so that the score is smooth.

    depth: 6n + 4 for n blocks in each of the three stages, so 10, 16, 22 or 28; width: k, for 16k,
    32k and 64k channels; classes: heads, 0 for none; norm: "group" or "none"; patch: squares of so
    many pixels become channels before the first convolution, which with 2 costs a quarter of the
    time and suits images of 28 × 28 and more; scale: s, the unit of energy the network starts from;
    density_head: one more head g, and e_k(x) = g(x) − log softmax(s f(x))_k, so that E(x) = g(x)
    but for a constant: how sure the classifier is and how likely x is are then told apart, while in
    −log Σ_k exp f_k(x) logits that grow to classify roughen the energy that chains walk in;
    separate_trunk: channels per layer of a `ConvNet` that computes g in the place of that head,
    each layer halving the image, so that a contrast of E(x) costs the classifier nothing;
    trunk_scale: its unit of energy. Samples of a class are then draws x of p(x) whose label, drawn
    from p(y | x), is that class (`LabelCondition.ancestral`), since the gradient of a plain
    classifier's log p(y | x) hardly steers a chain. Without norm, the second convolution of a block
    starts at a small size, so that a deep network starts near a shallow one.

    Raises ValueError for another depth, a domain that is no image, one that `patch` does not
    divide, or a separate trunk without density_head. Source: Zagoruyko & Komodakis (2016),
    https://arxiv.org/abs/1605.07146; as an energy: Grathwohl et al. (2020),
    https://arxiv.org/abs/1912.03263

    >>> import torch
    >>> from lowland.domain import box
    >>> net = WideResNet(box(0.0, 1.0, 1, 28, 28), depth=10, width=1, classes=10, patch=2)
    >>> x = torch.zeros(5, 1, 28, 28)
    >>> net(x).shape, net(x, torch.arange(5)).shape
    (torch.Size([5]), torch.Size([5]))
    """

    def __init__(
        self,
        domain: Domain | Plain,
        depth: int = 16,
        width: int = 2,
        classes: int = 0,
        norm: Literal["none", "group"] = "none",
        patch: int = 1,
        scale: float = 1.0,
        density_head: bool = False,
        separate_trunk: Sequence[int] = (),
        trunk_scale: float = 30.0,
    ) -> None:
        super().__init__(domain)
        channels, *size = image_shape(self.domain)
        self._read_sizes(depth, width, classes, norm, patch)
        self.scale = read_number("scale", scale, above=0)
        self.density_head = read_flag("density_head", density_head)
        self.separate_trunk = read_sizes("separate_trunk", separate_trunk, empty=True)
        self.trunk_scale = read_number("trunk_scale", trunk_scale, above=0)
        if self.density_head and self.classes < 2:
            raise ValueError(
                f"density_head is true for {self.classes} classes; it parts x from its label; give "
                "classes, or leave it false"
            )
        if self.separate_trunk and not self.density_head:
            raise ValueError(
                f"separate_trunk is {self.separate_trunk} and density_head false; a trunk of its "
                "own computes that head; set density_head, or leave it out"
            )
        if any(n % self.patch for n in size):
            raise ValueError(
                f"patch is {self.patch} for images of {size}; it must divide both sides; 1 always "
                "does"
            )
        self._build(channels)
        self.own: ConvNet | None = None
        if self.separate_trunk:
            layers = len(self.separate_trunk)
            fours, twos = [4] * layers, [2] * layers
            self.own = ConvNet(self.domain, self.separate_trunk, fours, twos, scale=trunk_scale)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _read_sizes(
        self, depth: object, width: object, classes: object, norm: object, patch: object
    ) -> None:
        self.depth = read_integer("depth", depth, least=10, most=MAX_DEPTH)
        if (self.depth - 4) % 6:
            raise ValueError(
                f"depth is {self.depth}; it is 6n + 4 for n blocks in each of three stages; choose "
                "10, 16, 22 or 28"
            )
        self.width = read_integer("width", width, least=1)
        self.classes = read_integer("classes", classes, least=0)
        self.norm = read_choice("norm", norm, ("none", "group"))
        self.patch = read_integer("patch", patch, least=1)

    def _build(self, channels: int) -> None:
        """Build stem, blocks and head, with the weights they start from."""
        blocks, into = (self.depth - 4) // 6, 16 * self.width
        widths = [into, 2 * into, 4 * into]
        check_memory("WideResNet", sum(9 * (2 * blocks - 1) * out**2 for out in widths))
        check_memory("WideResNet", 4 * into * self.classes)
        self.stem = nn.Conv2d(channels * self.patch**2, into, 3, padding=1)
        layers: list[nn.Module] = []
        for stage, out in enumerate(widths):
            for block in range(blocks):
                stride = 1 + (stage > 0 and block == 0)
                layers.append(_Block(into, out, stride, self.norm == "group"))
                into = out
        self.blocks = nn.Sequential(*layers)
        self.last = _norm(into, self.norm == "group")
        extra = self.density_head and not self.separate_trunk
        self.head = nn.Linear(into, max(self.classes, 1) + extra)
        self._start()

    @torch.no_grad()
    def _start(self) -> None:
        """Draw weights that keep variances of activations; shrink each block's last one."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        for block in self.blocks:
            scale = 0.5 / math.sqrt(len(self.blocks))
            block.second.weight.mul_(scale)  # type: ignore[union-attr, operator]

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        if c is None and self.own is not None:  # E(x) = g(x) without the costly residual trunk
            return self.own(x)
        return super().forward(x, c)

    def class_energies(self, x: Tensor) -> Tensor:
        logits = self._logits(x)
        if not self.density_head:
            return -logits
        head = logits[:, self.classes :] if self.own is None else self.own.class_energies(x)
        return head - F.log_softmax(logits[:, : self.classes], 1) - math.log(self.classes)

    @property
    def condition(self) -> LabelCondition | None:
        if not self.classes:
            return None
        logits = self.class_logits if self.density_head else None
        return LabelCondition(
            self.classes, self.class_energies, logits, ancestral=bool(self.separate_trunk)
        )

    def class_logits(self, x: Tensor) -> Tensor:
        """Return log p(y | x) up to a constant of x, (B, K), unrounded by the density head."""
        return self._logits(x)[:, : max(self.classes, 1)]

    def _logits(self, x: Tensor) -> Tensor:
        z = to_unit_box(x, self.domain)
        if self.patch > 1:
            z = F.pixel_unshuffle(z, self.patch)
        z = self.blocks(self.stem(z.contiguous(memory_format=torch.channels_last)))
        return self.scale * self.head(F.silu(self.last(z)).mean((2, 3)))

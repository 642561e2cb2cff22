"""A multilayer perceptron with SiLU layers, and its input gradient written by hand.

Chains of low-dimensional energies spend their time in small matrix products, where autograd's
bookkeeping and fresh memory cost as much as the arithmetic. By hand, with h = W a + b a layer's
input, u = h/2 and t = tanh(u):

    silu(h) = h / (1 + e^{−h}) = u + u t = a,      2 silu'(h) = 1 + r,   r = t + a − a t

so that a layer takes two passes over memory forwards besides its product, two for r and one
backwards, all in place, in blocks of rows that stay in cache. The factors ½ ride on the products.
Under autocast (bfloat16) products are cheap, and the layers are torch's own.
"""

import threading
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from lowland.energy.sizes import check_memory

CACHE = 1_600_000  # bytes of working memory that a block of rows may take on a CPU

Memory = list[tuple[Tensor, Tensor, Tensor]]


def normalize_weight(layer: nn.Module, wanted: bool) -> nn.Module:
    """Divide the weight of a layer by its largest singular value, if wanted, and return the layer.

    The power iteration advances in training mode only; chains run in eval mode, so the target does
    not move under them, and σ = uᵀWv stays in the graph. For convolutions W is the (out, in·k·k)
    matrix, which bounds the operator only up to a factor. Source: Miyato et al. (2018),
    https://arxiv.org/abs/1802.05957
    """
    return spectral_norm(layer) if wanted else layer


def perceptron(widths: Sequence[int], spectral_norm: bool) -> nn.Sequential:
    """Build linear layers of the given widths with SiLU between them.

    Raises ValueError for widths that this machine's memory does not hold.
    """
    check_memory("a perceptron", sum(a * b + b for a, b in pairwise(widths)))
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [normalize_weight(nn.Linear(a, b), spectral_norm), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


class Scratch(threading.local):
    """Working memory kept between calls, one per thread; copies of a network start with none."""

    def __init__(self) -> None:
        self.held: dict[tuple[object, ...], Memory] = {}

    def __deepcopy__(self, memo: object) -> "Scratch":
        return Scratch()

    def __reduce__(self) -> tuple[type["Scratch"], tuple[()]]:
        return Scratch, ()

    def layers(self, rows: int, widths: tuple[int, ...], like: Tensor) -> Memory:
        """Return three uninitialised tensors (rows, width) of the kind of `like` for each width."""
        key = (rows, widths, like.dtype, like.device)
        if key not in self.held:
            if len(self.held) > 3:
                self.held.clear()
            with torch.inference_mode(False):
                self.held[key] = [
                    (like.new_empty(rows, n), like.new_empty(rows, n), like.new_empty(rows, n))
                    for n in widths
                ]
        return self.held[key]


Layers = Sequence[tuple[Tensor, Tensor]]  # weights and biases
Seed = Callable[[Tensor, slice], Tensor] | Tensor | None


def heads_and_slopes(
    net: nn.Sequential,
    z: Tensor,
    seed: Seed,
    scratch: Scratch,
    *,
    heads: bool = True,
    factor: float = 1.0,
    pull: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Compute heads (B, K) of the net at z (B, D), and factor · ∂ + pull · z (B, D).

    ∂ are the slopes in z of an energy of the heads.

    seed: the slopes of the energy in the heads: None for one head and ones, a tensor (B, K), or a
    function of heads (rows, K) and the slice of rows they belong to. heads: False leaves the
    heads that are returned undefined.
    """
    half = torch.is_autocast_enabled(z.device.type)
    with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
        layers = [(layer.weight, layer.bias) for layer in net if isinstance(layer, nn.Linear)]
        if half:
            dtype = torch.get_autocast_dtype(z.device.type)
            found, slopes = _in_half(layers, z, seed, dtype, heads)
            slopes = slopes * factor
            return found, slopes.add_(z, alpha=pull) if pull else slopes
        widths, count = tuple(weight.shape[0] for weight, _ in layers), z.shape[0]
        row = 3 * sum(widths[:-1]) * z.element_size()
        blocks = -(-count // max(64, CACHE // max(row, 1))) if z.device.type == "cpu" else 1
        block = max(-(-count // max(blocks, 1)), 1)
        found = z.new_empty(count * heads, widths[-1])
        slopes = torch.empty_like(z)
        for i in range(0, count, block):
            rows = slice(i, min(i + block, count))
            part = z[rows] if blocks > 1 else z
            memory = scratch.layers(part.shape[0], widths[:-1], z)
            outward = _forwards(layers, part, rows, seed, memory, found if heads else None)
            into = slopes[rows] if blocks > 1 else slopes
            _backwards(layers, part, outward, memory, into, factor, pull)
    return found, slopes


def _forwards(
    layers: Layers, a: Tensor, rows: slice, seed: Seed, memory: Memory, found: Tensor | None
) -> Tensor | None:
    """Fill r of every layer, and `found` if given; return slopes in the heads, None for ones."""
    for (weight, bias), (u, r, value) in zip(layers, memory, strict=False):
        torch.addmm(bias, a, weight.t(), beta=0.5, alpha=0.5, out=u)
        torch.tanh(u, out=r)
        a = torch.addcmul(u, u, r, out=value)
        r.add_(torch.addcmul(a, a, r, value=-1, out=u))
    slopes = seed[rows] if isinstance(seed, Tensor) else None
    if found is None and not callable(seed):
        return slopes
    last, bias = layers[-1]
    vector = last.shape[0] == 1  # a product with one column is faster as one with a vector
    heads = torch.addmv(bias, a, last[0]).unsqueeze(1) if vector else torch.addmm(bias, a, last.t())
    if found is not None:
        found[rows] = heads
    if callable(seed):
        return seed(heads, rows)
    return slopes


def _backwards(
    layers: Layers,
    z: Tensor,
    outward: Tensor | None,
    memory: Memory,
    slopes: Tensor,
    factor: float,
    pull: float,
) -> None:
    """Write factor · ∂ + pull · z into `slopes`, from the slopes in the heads `outward`."""
    last = layers[-1][0]
    g = last.expand(z.shape[0], -1) if outward is None else outward @ last
    for i in range(len(memory) - 1, 0, -1):
        u, r, _ = memory[i]
        into = memory[i - 1][2]
        g = torch.addmm(
            into, torch.addcmul(g, g, r, out=u), layers[i][0], beta=0.0, alpha=0.5, out=into
        )
    u, r, _ = memory[0]
    torch.addmm(
        z, torch.addcmul(g, g, r, out=u), layers[0][0], beta=pull, alpha=0.5 * factor, out=slopes
    )


def _in_half(
    layers: Layers, z: Tensor, seed: Seed, dtype: torch.dtype, heads: bool
) -> tuple[Tensor, Tensor]:
    """Compute `heads_and_slopes` with products and layers in `dtype`."""
    weights = [(weight.to(dtype), bias.to(dtype)) for weight, bias in layers]
    a, inputs = z.to(dtype), []
    for weight, bias in weights[:-1]:
        inputs.append(torch.addmm(bias, a, weight.t()))
        a = torch.nn.functional.silu(inputs[-1])
    last, bias = weights[-1]
    found = z.new_empty(0, last.shape[0])
    if heads or callable(seed):
        found = torch.addmm(bias, a, last.t()).to(z.dtype)
    outward = seed(found, slice(None)) if callable(seed) else seed
    g = last.expand(z.shape[0], -1) if outward is None else outward.to(dtype) @ last
    for (weight, _), h in zip(weights[-2::-1], inputs[::-1], strict=True):
        g = torch.ops.aten.silu_backward(g, h) @ weight
    return found, g.to(z.dtype)

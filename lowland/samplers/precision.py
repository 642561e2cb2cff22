"""The precision of matrix products and convolutions: float32, bfloat16, or whichever is faster.

Under "bfloat16" a network's products round their factors to bfloat16 (autocast); points, noise and
weights stay float32. A device without bfloat16 arithmetic emulates it, 10 to 65 times slower than
float32, so "auto" measures first. This is its rule, everywhere in lowland:

- *What may be rounded.* Gradients of a network in chains, on the way down noise levels, and in
  training. Energies never are: every chain that runs under "auto" carries energies in float32, so
  accept steps and records lose nothing, and a sampler with an accept step stays exact. Points in
  float64 keep their digits, and so does an energy without layers of a network (Linear, Conv, ...):
  a density that somebody wrote down is computed as it was written. AIS, log Z, tuning, likelihoods,
  detection and attacks ask for no precision and are float32. Training rounds no chains with an
  accept step, because there loss and chains share one precision.
- *When it is.* One short timing for each class of work in a process: the energy's own gradient, at
  the shape of the batch, on the device. Layers and sizes of weights, event, batch up to a power of
  two, dtype and threads make the class. bfloat16 is taken if it needs less than MARGIN of the time
  of float32; the margin keeps noise from turning the choice round between two processes. On the
  CPU the time is that of the processor, so that a busy machine finds the same.
- *What it leaves.* The choice and both times are remembered in the process, logged once (`logging`,
  level INFO; a command prints it) and kept in `Trace.precision` and a run's time.jsonl. Nothing is
  drawn from a generator, and the module is as it was. A checkpoint holds the choice, so that resume
  stays bit for bit on any machine; `precision="float32"` or "bfloat16" repeats a result of
  elsewhere.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import lru_cache, partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from lowland.energy import Energy, differentiate
from lowland.energy.gradient import call
from lowland.energy.views import view_module

Precision = Literal["float32", "bfloat16"]
PRECISIONS = ("float32", "bfloat16", "auto")
LAYERS = (nn.Linear, nn.Bilinear, _ConvNd, nn.RNNBase, nn.MultiheadAttention)
DEVICES = ("cpu", "cuda", "xpu", "mps")  # on which autocast is known to work
MARGIN = 2 / 3  # share of the time of float32 below which bfloat16 is taken
CLEAR = (0.5, 0.9)  # shares below and above which no more is measured
ROUNDS = (5, 25)  # of both precisions, at least and where they are short; the fastest counts
BUDGET = 0.05  # seconds of one timed gradient in float32; larger batches are timed in part
SLICE = 2  # chains that are timed first
MAX_SLOWDOWN = 3.0  # of plain products, beyond which the device is held to emulate bfloat16

logger = logging.getLogger(__name__)


class PrecisionChoice(NamedTuple):
    """The precision of products, and what was measured before it was chosen.

    float32, bfloat16: processor seconds of one gradient in each, None where nothing was timed;
    reason: why it was so chosen.
    """

    precision: Precision
    reason: str
    float32: float | None = None
    bfloat16: float | None = None

    def __str__(self) -> str:
        return f"{self.precision} ({self.reason})"

    def to_dict(self) -> dict[str, str | float]:
        """Return plain values; times only where some were taken."""
        values = self._asdict()
        return {name: value for name, value in values.items() if value is not None}


AS_ASKED = PrecisionChoice("float32", "as asked")
_known: dict[tuple[object, ...], PrecisionChoice] = {}
_lock = threading.RLock()


def check_precision(precision: str) -> None:
    """Raise ValueError for a precision that is not known."""
    if precision not in PRECISIONS:
        raise ValueError(
            f"precision is {precision!r}; allowed are {', '.join(PRECISIONS)}; choose one of them"
        )


def resolve_precision(
    precision: str,
    energy: Energy,
    x: Tensor,
    *,
    rows: int | None = None,
    exact: bool = False,
    matrices: bool = False,
) -> PrecisionChoice:
    """Choose the precision in which to compute gradients of an energy; for "auto" by measurement.

    x (n, *event): points of the batch, or a few like them; rows: size of the batch, n unless given;
    exact: energies are wanted in float32 besides; matrices: weights of two axes count as a network
    too, whatever module holds them. The rule is that of the module `lowland.samplers.precision`.

    >>> import torch, lowland
    >>> bowl = lowland.Function(lambda x: x.square().sum(1))
    >>> print(resolve_precision("auto", bowl, torch.zeros(4, 2)))
    float32 (no layers of a network)
    """
    check_precision(precision)
    if precision != "auto":
        return PrecisionChoice("bfloat16" if precision == "bfloat16" else "float32", "as asked")
    reason = _find_hindrance(energy, x, matrices)
    if reason:
        return PrecisionChoice("float32", reason)
    size = 1 << max((rows or len(x)) - 1, 0).bit_length()
    key: tuple[object, ...]
    key = (x.device, x.dtype, tuple(x.shape[1:]), size, exact, torch.get_num_threads())
    key += tuple(_describe_weights(energy))
    with _lock:  # two timings at once would disturb each other
        if key not in _known:
            _known[key] = _choose(energy, x, size, exact)
            logger.info(
                "precision %s for gradients of %s at %d x %s on %s",
                *(_known[key], _name(energy), size, tuple(x.shape[1:]), x.device),
            )
        return _known[key]


def forget_choices() -> None:
    """Forget what was measured in this process, so that the next "auto" measures anew."""
    with _lock:
        _known.clear()
        slowdown_of_bfloat16.cache_clear()


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Return a context in which matrix products and convolutions run in a precision."""
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=precision == "bfloat16")


def _find_hindrance(energy: Energy, x: Tensor, matrices: bool) -> str:
    """Say why products must not be rounded, whatever their speed; empty if nothing speaks against
    it.
    """
    if x.dtype != torch.float32:
        return f"points are {str(x.dtype).removeprefix('torch.')}"
    if x.device.type not in DEVICES:
        return f"unknown on {x.device.type}"
    if not len(x) or not _has_layers(energy, matrices):
        return "no layers of a network"
    if torch.is_autocast_enabled(x.device.type):
        return "an autocast is on already"
    return ""


def _has_layers(energy: Energy, matrices: bool) -> bool:
    if any(isinstance(part, LAYERS) for part in energy.modules()):
        return True
    return matrices and any(weight.dim() > 1 for weight in energy.parameters())


def _describe_weights(energy: Energy) -> list[object]:
    """List kinds, settings and sizes of the parts of a network: what the time of a gradient is of.

    Wrappers without weights, which cost nothing, are left out.
    """
    found: list[object] = []
    for part in energy.modules():
        own = [tuple(weight.shape) for weight in part.parameters(recurse=False)]
        if own or not isinstance(part, Energy):
            kind = type(part)
            known = kind.__module__.startswith("torch.nn.")
            settings = part.extra_repr() if known else ""  # strides, say
            found.append((kind.__module__, kind.__qualname__, settings, *own))
    return found


def _name(energy: Energy) -> str:
    """Return the name of the innermost part that holds the whole network."""
    part: nn.Module = energy
    while not list(part.parameters(recurse=False)) and len(list(part.children())) == 1:
        inner = next(part.children())
        if not isinstance(inner, Energy):
            break
        part = inner
    return type(part).__name__


def _choose(energy: Energy, x: Tensor, rows: int, exact: bool) -> PrecisionChoice:
    """Measure both precisions, and choose."""
    slowdown = slowdown_of_bfloat16(x.device)
    if slowdown > MAX_SLOWDOWN:
        return PrecisionChoice("float32", f"bfloat16 is {slowdown:.0f} times slower here")
    try:
        full, half = measure(energy, x, rows, exact)
    except Exception as problem:  # the caller's own gradient says what is wrong, if it is
        return PrecisionChoice("float32", f"no timing: {type(problem).__name__}")
    faster: Precision = "bfloat16" if half < MARGIN * full else "float32"
    reason = f"{1e3 * full:.3g} ms in float32, {1e3 * half:.3g} ms in bfloat16"
    return PrecisionChoice(faster, reason, full, half)


def measure(energy: Energy, x: Tensor, rows: int, exact: bool = False) -> tuple[float, float]:
    """Time the gradient of an energy at a batch of so many rows like x (n, *event); return the
    seconds in float32 and in bfloat16.

    Batches that take long are timed in part. bfloat16 is given up where a slice alone takes as long
    as everything in float32. The module keeps its mode, buffers and counters; no generator moves.
    """
    devices = [] if x.device.type in ("cpu", "mps") else [x.device]
    view = view_module(energy, constant=True, training=False, own_buffers=True)
    read = _clock(x.device)

    def time_once(count: int, half: bool) -> float:
        index = torch.arange(count, device=x.device) % len(x)
        part, points = view.index_rows(index), x.detach()[index]
        start = read()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
            value, score = differentiate(part, points)
        if half and exact:
            value = call(part, points)
        if x.device.type != "cpu":
            score.flatten()[0].item(), value[0].item()  # waits for the device
        return read() - start

    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices, device_type=x.device.type))
        stack.enter_context(torch.no_grad())
        return _compare(time_once, rows)


def _compare(time_once: Callable[[int, bool], float], rows: int) -> tuple[float, float]:
    """Return the seconds of the fastest gradient in float32 and in bfloat16.

    time_once: takes a number of rows and whether to round; returns seconds. The two take turns, so
    that a neighbour on the machine slows both; turns end early where the choice is clear.
    """
    small = min(SLICE, rows)
    full, half = (_fastest(partial(time_once, small, half)) for half in (False, True))
    while rows > small and full * rows / small > BUDGET:
        rows //= 2
    if half > 2 * full * rows / small:
        return full * rows / small, half
    if rows > small:
        full, half = (time_once(rows, half) for half in (False, True))  # warms up
        full, half = (time_once(rows, half) for half in (False, True))
    rounds = round(min(max(ROUNDS[0], BUDGET / max(full, 1e-9)), ROUNDS[1]))
    for done in range(1, rounds + 1):
        full, half = min(full, time_once(rows, False)), min(half, time_once(rows, True))
        if done >= 3 and not CLEAR[0] * full < half < CLEAR[1] * full:
            break
    return full, half


def _fastest(time_once: Callable[[], float]) -> float:
    """Return the seconds of the fastest of some runs after one that warms up; of a long one alone
    where it takes longer than all others should.
    """
    first = time_once()
    if first > 10 * BUDGET:
        return first
    return min(time_once() for _ in range(3))


@lru_cache
def slowdown_of_bfloat16(device: torch.device) -> float:
    """Measure how many times longer a product or a convolution, whichever suffers more, takes in
    bfloat16 than in float32 on a device: once, in some milliseconds, a tenth of a second where
    bfloat16 is emulated.
    """
    shapes = ((128, 256), (256, 256), (8, 32, 14, 14), (32, 32, 3, 3))
    rows, weight, images, kernel = (torch.ones(shape, device=device) for shape in shapes)
    read, slowdown = _clock(device), 0.0

    def time_once(work: Callable[..., Tensor], factors: list[Tensor]) -> float:
        start = read()
        result = work(*factors)
        if result.device.type != "cpu":
            result.flatten()[0].item()  # waits for the device
        return read() - start

    with torch.no_grad():
        for work, pair in ((F.linear, (rows, weight)), (F.conv2d, (images, kernel))):
            full, half = (
                _fastest(partial(time_once, work, [factor.to(dtype) for factor in pair]))
                for dtype in (torch.float32, torch.bfloat16)
            )
            slowdown = max(slowdown, half / max(full, 1e-9))
    return slowdown


def _clock(device: torch.device) -> Callable[[], float]:
    """Return the clock of a device: the processor's time of this thread on a CPU, else a wall
    clock.
    """
    fine = time.get_clock_info("thread_time").resolution < 1e-5
    return time.thread_time if device.type == "cpu" and fine else time.perf_counter

"""Cheaper gradients must be gradients of the same energy: blocks, bfloat16, compiled; and those
written by hand.
"""

import copy
import gc
import warnings
import weakref
from typing import Any

import pytest
import torch
from contract.cases import seeded

from lowland import HMC, MALA, Energy, Function, Langevin, box, mixture, real, sample
from lowland.energy import by_autograd, differentiate, freeze, score_alone
from lowland.nets import IGEBM, MLP, ConvNet, NoiseMLP
from lowland.samplers import accelerate, acceleration
from lowland.targets import Gaussian

DOUBLE = torch.float64


def mlp(domain: Any = None, **options: Any) -> MLP:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MLP(
            domain or real(5),
            **{"hidden": (16, 24), "quadratic_weight": 0.3, "scale": 2.0, **options},
        )


def conv(**options: Any) -> ConvNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ConvNet(box(0.0, 1.0, 1, 8, 8), channels=(4, 6, 6), hidden=16, **options)


# -------------------------------------------------------------------------------- gradients by hand


@pytest.mark.parametrize("domain", [real(5), box(-0.5, 2.0, 1, 2, 3)], ids=str)
@pytest.mark.parametrize("quadratic_weight", [0.0, 0.3])
@pytest.mark.parametrize("hidden", [(7,), (16, 24), (8, 9, 10)], ids=str)
@pytest.mark.parametrize("spectral", [False, True], ids=["plain", "spectral"])
def test_a_perceptrons_gradient_by_hand_is_that_of_autograd(
    domain: Any, quadratic_weight: float, hidden: tuple[int, ...], spectral: bool
) -> None:
    """Over several blocks of rows, for every kind of condition; to rounding in float64."""
    rows = 700
    x, g = domain.draw(rows, seeded(1), dtype=DOUBLE), seeded(2)
    labels, soft = (
        torch.randint(4, (rows,), generator=g),
        torch.rand(rows, 4, generator=g, dtype=DOUBLE),
    )
    for classes, conditions in ((0, [None]), (4, [None, labels, soft, torch.tensor(2)])):
        energy = mlp(
            domain,
            hidden=hidden,
            quadratic_weight=quadratic_weight,
            classes=classes,
            spectral_norm=spectral,
        ).double()
        for c in conditions:
            bound = energy if c is None else energy.given(c)
            with freeze(bound) as bound:
                value, score = by_autograd(bound, x)
                for found in (differentiate(bound, x), differentiate(2 * bound / 2.0, x)):
                    torch.testing.assert_close(found[0], value, rtol=1e-12, atol=1e-12)
                    torch.testing.assert_close(found[1], score, rtol=1e-12, atol=1e-12)
                torch.testing.assert_close(score_alone(bound, x), score, rtol=1e-12, atol=1e-12)


def test_the_noise_perceptrons_gradient_by_hand_is_that_of_autograd() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        energy = NoiseMLP(
            box(-1.0, 3.0, 4), hidden=(8, 9), quadratic_weight=0.2, scale=1.5
        ).double()
    x, sigma = (
        energy.domain.draw(60, seeded(), dtype=DOUBLE),
        torch.rand(60, generator=seeded(1), dtype=DOUBLE) + 0.1,
    )
    for c in (sigma, 0.3):
        bound = energy.given(c)
        for a, b in zip(differentiate(bound, x), by_autograd(bound, x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_a_gradient_by_hand_follows_the_weights_and_leaves_them_alone() -> None:
    energy, x = mlp().double(), torch.randn(9, 5, generator=seeded(), dtype=DOUBLE)
    differentiate(energy, x)
    with torch.no_grad():
        for p in energy.parameters():
            p.mul_(1.1)
    torch.testing.assert_close(
        differentiate(energy, x)[1], by_autograd(energy, x)[1], rtol=1e-12, atol=1e-12
    )
    assert all(p.grad is None for p in energy.parameters())
    first = differentiate(energy, x)[1].clone()
    kept = differentiate(energy, x)[1]
    differentiate(energy, x + 1)
    assert torch.equal(kept, first), "working memory was handed out as a result"
    assert copy.deepcopy(energy).scratch.held == {}


def test_a_label_outside_the_classes_is_refused_by_hand_too() -> None:
    with pytest.raises(ValueError, match=r"classes 0 to 3;"):
        sample(
            mlp(classes=4).given(torch.tensor([7])),
            MALA(0.1),
            torch.zeros(3, 5),
            2,
            generator=seeded(),
        )


# ------------------------------------------------------------------------------------------- blocks


class Rows(Energy):
    """E(x) = ½ Σ (x − m_i)², one m_i per chain, which `index_rows` picks along."""

    def __init__(self, m: torch.Tensor) -> None:
        super().__init__(real(3))
        self.register_rows("m", m)

    def forward(self, x: torch.Tensor, c: Any = None) -> torch.Tensor:
        return 0.5 * (x - self.m).square().sum(1)


@pytest.mark.parametrize("chunk", [1, 7, 10, 23, 64])
def test_blocks_of_chains_give_the_chains_of_one_batch(chunk: int) -> None:
    """Labels, soft labels, sums, mixtures and energies with rows of their own go along with their
    chains.
    """
    rows, m = 23, torch.randn(23, 3, generator=seeded(), dtype=DOUBLE)
    labels = torch.arange(rows) % 3
    net = conv(classes=3).double()
    images = net.domain.draw(rows, seeded(), dtype=DOUBLE)
    points = torch.randn(rows, 3, generator=seeded(3), dtype=DOUBLE)
    bowl = Function(lambda x: x.square().sum(1), real(3))
    cases = [
        (net.given(labels), images),
        (Rows(m) + 0.5 * bowl, points),
        (mixture(Rows(m), Rows(-m)), points),
    ]
    for energy, x in cases:
        for sampler in (MALA(0.01), HMC(0.05, 3), Langevin(0.01)):
            whole = sample(energy, sampler, x, 4, generator=seeded(1))
            parts = sample(energy, sampler, x, 4, generator=seeded(1), chunk=chunk)
            torch.testing.assert_close(parts.x, whole.x, rtol=1e-10, atol=1e-10)
            assert parts.num_grad_evals == whole.num_grad_evals


def test_rows_of_an_expression_are_those_of_its_parts() -> None:
    m, index = torch.randn(6, 3, generator=seeded()), torch.tensor([4, 1, 1])
    x = torch.randn(6, 3, generator=seeded(1))
    soft = torch.rand(6, 4, generator=seeded(2))
    net = mlp(real(3), classes=4)
    for energy in (
        Rows(m) - 0.2 * net.given(soft),
        mixture(Rows(m), net.given(torch.tensor([1]))),
        net.given(2),
    ):
        torch.testing.assert_close(energy.index_rows(index)(x[index]), energy(x)[index])


# ----------------------------------------------------------------------------------------- bfloat16


def test_bfloat16_moves_by_gradients_of_bfloat16_and_judges_in_float32() -> None:
    energy, x = conv(), conv().domain.draw(40, seeded())
    trace = sample(energy, MALA(1e-3), x, 5, generator=seeded(1), precision="bfloat16")
    with torch.no_grad():
        torch.testing.assert_close(trace.state.energy, energy(trace.x), rtol=1e-6, atol=1e-6)
    score = by_autograd(energy, trace.x)[1]
    error = (trace.state.score - score).norm() / score.norm()
    assert 1e-5 < error < 0.1, "the score is not that of a network in bfloat16"
    assert trace.x.dtype == trace.state.score.dtype == torch.float32
    plain = sample(energy, Langevin(1e-3), x, 5, generator=seeded(1), precision="bfloat16")
    exact = sample(energy, Langevin(1e-3), x, 5, generator=seeded(1))
    assert not torch.equal(plain.x, exact.x) and (plain.x - exact.x).abs().max() < 1e-3


def test_bfloat16_leaves_the_law_of_an_adjusted_sampler_as_it_is() -> None:
    """A gradient good to three digits only proposes; n = 3 × 20,000 exact draws of a Gaussian
    through a matrix product.
    """
    energy = Gaussian((1.0, -1.0), ((1.0, 0.8), (0.8, 1.5)))
    for sampler in (MALA(0.2), HMC(0.4, 4)):
        pooled = []
        for seed in range(3):
            g = seeded(seed)
            x = energy.draw(20_000, g)
            y = sample(energy, sampler, x, 12, generator=g, precision="bfloat16").x
            change = torch.cat(
                [y - x, y.square() - x.square(), (y.prod(1) - x.prod(1)).unsqueeze(1)], 1
            ).double()
            pooled.append(change.mean(0) / change.std(0) * len(x) ** 0.5)
        assert (torch.stack(pooled).sum(0) / 3**0.5).abs().max() < 5


# ----------------------------------------------------------------------------------------- compiled


def test_compiled_gradients_are_the_same_and_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(
        torch, "compile", lambda f, **_: calls.append(f) or f
    )  # the compiler itself takes half a minute
    net = conv(classes=3)
    x = net.domain.draw(6, seeded())
    for _ in range(3):
        for energy in (net.given(torch.arange(6) % 3), net.given(1)):
            a = sample(energy, MALA(1e-3), x, 3, generator=seeded(1))
            b = sample(energy, MALA(1e-3), x, 3, generator=seeded(1), compile=True)
            torch.testing.assert_close(a.x, b.x, rtol=1e-5, atol=1e-6)
    assert len(calls) == 1, "the network was compiled again for another condition"
    by_hand = mlp()
    a, b = (
        sample(by_hand, MALA(0.1), torch.zeros(4, 5), 3, generator=seeded(1), compile=c)
        for c in (False, True)
    )
    torch.testing.assert_close(a.x, b.x)


def test_a_compiled_energy_is_not_kept_alive() -> None:
    net = conv()
    acceleration._functions.setdefault(net, {})[False] = acceleration._compile()
    gone = weakref.ref(net)
    del net
    gc.collect()
    assert gone() is None


def test_a_compiler_that_fails_is_named_once_and_sampling_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        def run(*_: Any) -> Any:
            raise RuntimeError("no C++ compiler was found\nwith a long tale")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    net = conv()
    x = net.domain.draw(6, seeded())
    with pytest.warns(
        UserWarning,
        match=r"torch.compile failed \(RuntimeError: no C\+\+ compiler was found\); going on",
    ):
        found = sample(net, MALA(1e-3), x, 3, generator=seeded(1), compile=True)
    assert torch.equal(found.x, sample(net, MALA(1e-3), x, 3, generator=seeded(1)).x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample(net, MALA(1e-3), x, 3, generator=seeded(1), compile=True)


@pytest.mark.slow
def test_the_compiler_itself() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        nets = [conv(), mlp(), IGEBM(box(0.0, 1.0, 1, 8, 8), widths=(6, 8), blocks=1)]
    for net in nets:
        x = net.domain.draw(6, seeded())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for precision, close in (("float32", 1e-5), ("bfloat16", 1e-2)):
                a, b = (
                    sample(
                        net,
                        Langevin(1e-3),
                        x,
                        3,
                        generator=seeded(1),
                        compile=c,
                        precision=precision,
                    )
                    for c in (False, True)
                )
                torch.testing.assert_close(a.x, b.x, rtol=close, atol=close)


# ----------------------------------------------------------------------------------------- the door


def test_options_that_cannot_be_meant_are_refused() -> None:
    bowl, x = Function(lambda x: x.square().sum(1), real(2)), torch.zeros(3, 2)
    for options, words in (
        ({"precision": "float16"}, "float32, bfloat16"),
        ({"chunk": 0}, "at least 1"),
        ({"chunk": 2.5}, "at least 1"),
    ):
        with pytest.raises(ValueError, match=rf";.*{words}|{words}.*;"):
            sample(bowl, MALA(0.1), x, 2, generator=seeded(), **options)  # type: ignore[arg-type]
    assert accelerate(bowl) is bowl
    assert accelerate(bowl, x, precision="auto") is bowl
    with pytest.raises(ValueError, match=r"no points came; .*; pass x"):
        accelerate(bowl, precision="auto")

"""The same proof over the samplers of ebmkit and torchebm, used as their documentation says.

    python -m benchmarks.proof.rivals              # writes results/proof/rivals.{md,json}; needs
                                                   both packages

Their samplers are called through one line each, as plain moves x -> x. Asked is only what a
sampler's documentation claims: "exact" ones for the distribution, unadjusted ones for the order of
their bias, measured and not judged. Targets that end where the energy is not a number are listed
apart: neither package speaks of them. Every finding comes with a program of a few lines that shows
it without lowland; this benchmark runs it and prints what it said.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from benchmarks.proof.findings import FINDINGS
from benchmarks.proof.samplers import (
    RESULTS,
    circumstances,
    grid,
    listed,
    markdown,
    measured,
    on_target,
    other_laws,
)
from benchmarks.record import write_record
from lowland.energy import Energy, gibbs_of
from lowland.testing import (
    TARGETS,
    Ground,
    Probe,
    Report,
    domain_of,
    no_trace,
    order,
    prove,
    seeded,
    unsettle,
)

PACKAGES = ("ebmkit", "torchebm")


@dataclass(frozen=True)
class Move:
    """A rival's sampler as a move: make(energy, step_size, dtype) returns go(x, steps,
    generator).
    """

    make: Callable[[Any, float, torch.dtype], Callable[[Tensor, int, torch.Generator], Tensor]]
    step_size: float

    def __call__(self, energy: Energy, x: Tensor, steps: int, generator: torch.Generator) -> Tensor:
        return self.make(energy, self.step_size, x.dtype)(x, steps, generator)


@dataclass(frozen=True)
class Rival:
    """A sampler, the call that stands for it, and what its documentation claims."""

    name: str
    move: Move
    call: str
    adjusted: bool = True
    domains: tuple[str, ...] = ("real",)
    steps: int = 12
    count: int = 20_000
    stretch: float = 1.0


def ebmkit(sampler: Callable[[float], Any]) -> Callable[..., Any]:
    """ebmkit draws from the global generator: it is seeded from ours and put back."""

    def make(energy: Any, step_size: float, dtype: torch.dtype) -> Any:
        made = sampler(step_size)

        def go(x: Tensor, steps: int, generator: torch.Generator) -> Tensor:
            with torch.random.fork_rng():
                torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
                return made.sample(energy, x, steps=steps)

        return go

    return make


def ebmkit_one_hot(sampler: Callable[[float], Any]) -> Callable[..., Any]:
    """Categorical events are one-hot floats there."""

    def make(energy: Any, step_size: float, dtype: torch.dtype) -> Any:
        inner = ebmkit(sampler)(gibbs_of(energy).one_hot_energy, step_size, dtype)
        return lambda x, steps, g: (
            inner(one_hot(x.long(), energy.domain.classes).to(dtype), steps, g).argmax(-1).to(dtype)
        )

    return make


def torchebm(sampler: Callable[[Any, float, torch.dtype], Any]) -> Callable[..., Any]:
    """torchebm takes a model of its own kind, a dtype and a generator."""

    def make(energy: Any, step_size: float, dtype: torch.dtype) -> Any:
        from torchebm.core import BaseModel

        class Model(BaseModel):
            def __init__(self) -> None:
                super().__init__()
                self.energy = energy

            def forward(self, x: Tensor) -> Tensor:
                return self.energy(x)

        made = sampler(Model(), step_size, dtype)
        return lambda x, steps, g: made.sample(x, n_steps=steps, generator=g)

    return make


def curved(x: Tensor) -> Tensor:
    """A metric that depends on the place."""
    return torch.diag_embed(1 + 0.3 * x.square() / (1 + x.square()))


def rivals() -> list[Rival]:
    import ebm.samplers as e
    import torchebm.samplers as t

    ladder = (1.0, 2.0, 4.0)
    hmc = torchebm(
        lambda m, h, d: t.HamiltonianMonteCarlo(m, step_size=h, n_leapfrog_steps=4, dtype=d)
    )
    riemann = torchebm(
        lambda m, h, d: t.RiemannianManifoldHMC(m, curved, step_size=h, n_leapfrog_steps=4, dtype=d)
    )
    ula = torchebm(lambda m, h, d: t.LangevinDynamics(m, step_size=h, dtype=d))
    heun = torchebm(lambda m, h, d: t.LangevinDynamics(m, step_size=h, dtype=d, integrator="heun"))
    tempered = Move(ebmkit(lambda h: e.ParallelTempering(e.MALA(h), ladder)), 0.2)
    return [
        Rival("ebmkit MALA", Move(ebmkit(lambda h: e.MALA(h)), 0.2), "MALA(0.2)"),
        Rival("ebmkit HMC", Move(ebmkit(lambda h: e.HMC(h, 4)), 0.4), "HMC(0.4, 4)"),
        Rival(
            "ebmkit NUTS",
            Move(ebmkit(lambda h: e.NUTS(h, warmup=0, max_depth=4)), 0.5),
            "NUTS(0.5, warmup=0, max_depth=4)",
            count=5_000,
        ),
        Rival(
            "ebmkit NUTS, warmed up",
            Move(ebmkit(lambda h: e.NUTS(h, warmup=50, max_depth=4)), 0.5),
            "NUTS(0.5, warmup=50, max_depth=4)",
            count=2_000,
        ),
        Rival(
            "ebmkit AdaptiveMALA",
            Move(ebmkit(lambda h: e.AdaptiveMALA(h, warmup=100, precondition=True)), 0.2),
            "AdaptiveMALA(0.2, warmup=100, precondition=True)",
            count=5_000,
        ),
        Rival(
            "ebmkit ParallelTempering",
            tempered,
            "ParallelTempering(MALA(0.2), (1, 2, 4)), after 150 sweeps, as its replicas start as "
            "copies",
            steps=150,
            count=5_000,
        ),
        Rival(
            "ebmkit TemperedTransitions",
            Move(ebmkit(lambda h: e.TemperedTransitions(e.MALA(h), ladder)), 0.2),
            "TemperedTransitions(MALA(0.2), (1, 2, 4))",
            count=10_000,
        ),
        Rival(
            "ebmkit GibbsWithGradients",
            Move(ebmkit(lambda h: e.GibbsWithGradients()), 1.0),
            "GibbsWithGradients()",
            domains=("binary",),
        ),
        Rival(
            "ebmkit CategoricalGibbsWithGradients",
            Move(ebmkit_one_hot(lambda h: e.CategoricalGibbsWithGradients()), 1.0),
            "CategoricalGibbsWithGradients(), on one-hot events",
            domains=("categorical",),
        ),
        Rival(
            "torchebm HamiltonianMonteCarlo",
            Move(hmc, 0.4),
            "HamiltonianMonteCarlo(model, step_size=0.4, n_leapfrog_steps=4)",
        ),
        Rival(
            "torchebm RiemannianManifoldHMC",
            Move(riemann, 0.2),
            "RiemannianManifoldHMC(model, metric, step_size=0.2, n_leapfrog_steps=4)",
            count=2_000,
        ),
        Rival(
            "ebmkit LangevinDynamics",
            Move(ebmkit(lambda h: e.LangevinDynamics(h)), 0.15),
            "LangevinDynamics(h)",
            False,
        ),
        Rival(
            "ebmkit PreconditionedLangevin",
            Move(ebmkit(lambda h: e.PreconditionedLangevin(torch.ones(1), h)), 0.15),
            "PreconditionedLangevin(1, h)",
            False,
        ),
        Rival(
            "ebmkit UnderdampedLangevin",
            Move(ebmkit(lambda h: e.UnderdampedLangevin(h)), 0.3),
            "UnderdampedLangevin(h)",
            False,
            stretch=12.0,
        ),
        Rival(
            "torchebm LangevinDynamics",
            Move(ula, 0.15),
            "LangevinDynamics(model, step_size=h)",
            False,
        ),
        Rival(
            "torchebm LangevinDynamics, heun",
            Move(heun, 0.15),
            'LangevinDynamics(model, step_size=h, integrator="heun")',
            False,
        ),
    ]


# ----------------------------------------------------------------------------------------- checking


def distributions(rival: Rival, holed: bool, seeds: int) -> Report:
    """Targets of the rival's domain, with a border beyond which the energy is not finite or
    without; no boxes.
    """
    found = prove(
        rival.move,
        name=rival.name,
        domains=rival.domains,
        adjusted=True,
        targets={name: target for name, target in TARGETS.items() if target.holed == holed},
        count=rival.count,
        steps=rival.steps,
        seeds=range(seeds),
    )
    return (
        Report(found.name, tuple(row for row in found.rows if row.check != "joint"))
        if holed
        else found
    )


def slope(rival: Rival) -> list[str]:
    found = order(rival.move, stretch=rival.stretch, patience=600)
    size = max(abs(bias) for bias in found.biases)
    slope = (
        f"{found.order:.2f} ± {found.error:.2f}"
        if found.error < 0.2
        else "the bias is too small to tell"
    )
    return [rival.name, f"`{rival.call}`", f"{rival.move.step_size:g}", f"{size:.4f}", slope]


def facts(rival: Rival) -> list[str]:
    """What is not of the distribution: cost, determinism, images, whether a module in training
    mode is left
    alone.
    """
    kind = rival.domains[0]
    energy = Ground(domain_of(kind, 4))
    x = energy.domain.draw(8, seeded())
    one, two, more = (_paid(rival, energy, x, steps) for steps in (1, 1, 6))
    runs = [rival.move(energy, x, 3, seeded(1)) for _ in range(2)]
    untouched = "yes"
    probe = Probe(domain_of(kind, 4))
    unsettle(probe)
    try:
        with no_trace(probe):
            rival.move(probe, probe.domain.draw(8, seeded()), 3, seeded())
    except AssertionError as problem:
        untouched = f"no: {problem}"
    same = "yes" if torch.equal(*runs) and one == two else "no"
    return [
        rival.name,
        f"{(more - one) / 5:g}",
        same,
        "yes" if kind != "real" else _takes_images(rival),
        untouched,
    ]


def _paid(rival: Rival, energy: Ground, x: Tensor, steps: int) -> float:
    energy.rows_paid = 0
    rival.move(energy, x, steps, seeded())
    return energy.rows_paid / len(x)


def _takes_images(rival: Rival) -> str:
    try:
        rival.move(Ground(domain_of("real", 1, 4, 4)), torch.zeros(2, 1, 4, 4), 2, seeded())
    except Exception as problem:
        return f"no: {str(problem).splitlines()[0][:60]}"
    return "yes"


def page(found: dict[str, Any], meta: dict[str, Any]) -> str:
    smooth, holed = found["smooth"], found["holed"]
    passed = [report.name for report in smooth if report.holds]
    notes = [
        [report.name, f"{row.check}, {row.target}", row.note]
        for report in (*smooth, *holed)
        for row in report.failures
        if row.note and row.check != "enumeration" and row.dtype == "float64"
    ]
    calls = [
        [rival.name, f"`{rival.call}`", str(rival.count), str(rival.steps)]
        for rival in rivals()
        if rival.adjusted
    ]
    blocks = [
        "### "
        f"{finding.title}\n\n{finding.why}\n\n```python\n{finding.code}\n```\n\n```text\n{said}\n```"
        for finding, said in zip(FINDINGS, found["said"], strict=True)
    ]
    return f"""# The proof over ebmkit {version("ebmkit")} and torchebm {version("torchebm")}

Their samplers through lowland's bench, called as documented, from exact draws. {measured(meta)}
Figures are the worst |z| over
float32 and float64; below 5 the claim holds. Every sampler that claims an exact distribution and
keeps it
on all smooth targets:
{", ".join(passed)}.

## Samplers that claim an exact distribution: smooth targets

{grid(smooth, on_target)}

{grid(smooth, other_laws)}

{grid(smooth, listed)}

## The same where the energy is not a number beyond a border

Neither package speaks of such energies; many models have them (a logarithm, a Cholesky factor, an
overflow). "arrival": chains
that start at one point, after 200 steps, against exact draws.

{grid(holed, on_target)}

{grid(holed, other_laws)}

{grid(holed, listed)}

What was raised, or refused, in words:

{markdown(["sampler", "check", "what it said"], notes)}

## Order of the bias

Slope of log |bias| on log h, as for lowland's own samplers. No order is claimed, so none is judged.

{markdown(["sampler", "call", "largest h", "largest bias", "slope"], found["orders"])}

## What else

Gradients per step (lowland's MALA takes 1, its HMC with 4 leapfrogs 4: the last one is carried
over); same seed, same bits;
events that are images; a module in training mode, with batch norm and spectral norm, is afterwards
as it was.

{
        markdown(
            [
                "sampler",
                "gradients per step",
                "same seed, same bits",
                "images",
                "module left alone",
            ],
            found["facts"],
        )
    }

ebmkit draws from PyTorch's global generator and takes no other; torchebm takes a `generator`.
Neither has walls: on a box both
offer a clamp, which puts mass on the border.

## Findings, each in a few lines

{chr(10).join(chr(10) + block for block in blocks)}

## How each was called

{markdown(["sampler", "call", "chains", "steps"], calls)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    args.count = 20_000
    torch.set_num_threads(1)
    start = time.time()
    found: dict[str, Any] = {"smooth": [], "holed": [], "orders": [], "facts": []}
    for rival in rivals():
        if rival.adjusted:
            for where, holed in (("smooth", False), ("holed", True)):
                found[where].append(distributions(rival, holed, args.seeds))
        else:
            found["orders"].append(slope(rival))
        found["facts"].append(facts(rival))
        print(f"{rival.name} ({time.time() - start:.0f} s)", file=sys.stderr, flush=True)
    found["said"] = [finding.said() for finding in FINDINGS]
    meta = circumstances(start, args)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "rivals.md").write_text(page(found, meta), encoding="utf-8")
    rows = [
        {"sampler": r.name, **row._asdict()}
        for where in ("smooth", "holed")
        for r in found[where]
        for row in r.rows
    ]
    data = {
        **meta,
        "packages": {name: version(name) for name in PACKAGES},
        "rows": rows,
        **{key: found[key] for key in ("orders", "facts")},
        "findings": [
            {"title": f.title, "code": f.code, "said": said}
            for f, said in zip(FINDINGS, found["said"], strict=True)
        ],
    }
    write_record(args.out / "rivals.json", data)


if __name__ == "__main__":
    main()

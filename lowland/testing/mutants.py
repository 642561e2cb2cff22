"""The bugs that the checks are known to catch: one line changed in each, over every family of
samplers.

Some leave the law alone and break a promise instead (a cost, a count, a fresh score): then the
check is that of the promise.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from lowland import samplers as sound
from lowland.testing import exact_checks, statistical_checks
from lowland.testing.mutation import Mutant
from lowland.testing.targets import TARGETS

Check = tuple[str, Callable[[Any], Any]]


def on(target: str, **settings: Any) -> Check:
    """Invariance on a target."""
    return f"stationarity, {target}", partial(
        statistical_checks.stationarity, target=TARGETS[target], **{"seeds": (0,)} | settings
    )


def listed(target: str, count: int = 5_000) -> Check:
    """Agreement with the list of all states of a target."""
    return (
        f"enumeration, {target}",
        lambda sampler: statistical_checks.enumeration(sampler, TARGETS[target], count=count).z,
    )


def law(temperature: float = 1.0) -> Check:
    """The exact variance of unadjusted Langevin on a Gaussian."""
    return "temperature law", lambda sampler: statistical_checks.temperature_law(
        sampler, sampler.step_size, temperature
    )


def declared_order(sampler: Any) -> float:
    """How far the measured order of the bias is from the declared one, in standard errors."""
    return statistical_checks.order(sampler).z(sampler.order)


def hole(name: str) -> Check:
    """Refusal of energies that are not finite."""
    return f"refuses holes, {name}", partial(exact_checks.refuses_holes, hole=name)


JOINT: Check = ("joint test", statistical_checks.joint)
ARRIVES_AT_BITS: Check = (
    "arrival, bits",
    partial(statistical_checks.arrival, target=TARGETS["bits"]),
)
ARRIVES: Check = (
    "arrival, gaussian",
    partial(statistical_checks.arrival, target=TARGETS["gaussian"]),
)
WALLS = on("exponential", count=60_000)
MOVES: Check = (
    "diffusion law",
    lambda sampler: statistical_checks.diffusion_law(sampler, sampler.step_size),
)
SCALED: Check = (
    "temperature law, scaled",
    lambda s: statistical_checks.temperature_law(s, s.step_size * s.scale[0] ** 2, 1.0),
)
ORDER: Check = ("order", declared_order)
FRESH: Check = ("state is fresh", exact_checks.state_is_fresh)
SEPARATE: Check = ("chains are separate", exact_checks.chains_are_separate)
REPEATS: Check = ("repeats", exact_checks.repeats)
BINARY: Check = ("state is fresh", partial(exact_checks.state_is_fresh, kind="binary"))
COST: Check = ("gradients as declared", exact_checks.gradients_as_declared)
TRAVEL: Check = ("replicas travel", exact_checks.replicas_travel)


def bugs(
    module: str,
    where: str,
    make: Callable[[Any], Any],
    *found: tuple[str, str, str, Check],
    through: str | None = None,
) -> list[Mutant]:
    """Several bugs in one place: (in words, old, new, check)."""
    home = "lowland.samplers."
    via = None if through is None else home + through
    return [
        Mutant(words, home + module, where, old, new, make, seen[1], seen[0], via)
        for words, old, new, seen in found
    ]


COIN = "metropolis(state, new, log_ratio, generator)"
UNJUDGED = "metropolis(state, new, None, generator)"
SUMMED = "metropolis(state, new, log_ratio.sum().expand_as(log_ratio), generator)"

MALA = bugs(
    "langevin",
    "MALA.step",
    lambda m: m.MALA(0.2),
    (
        "noise × 0.97, unknown to the ratio",
        "shifted(p, state.score",
        "shifted(0.97 * p, state.score",
        on("ten"),
    ),
    (
        "noise × 1.03, unknown to the ratio",
        "shifted(p, state.score",
        "shifted(1.03 * p, state.score",
        on("ten"),
    ),
    (
        "noise × 0.97",
        "normal_like(state.x, generator)",
        "0.97 * normal_like(state.x, generator)",
        on("ten"),
    ),
    (
        "√2 dropped: exact, but another step",
        "(2 * self.step_size) ** 0.5",
        "self.step_size**0.5",
        MOVES,
    ),
    (
        "sign of the score",
        "state.score, epsilon / 2)",
        "state.score, -epsilon / 2)",
        on("gaussian"),
    ),
    (
        "first half kick a whole one",
        "state.score, epsilon / 2)",
        "state.score, epsilon)",
        on("gaussian"),
    ),
    (
        "old score in the ratio",
        "new.score, epsilon / 2)",
        "state.score, epsilon / 2)",
        on("banana"),
    ),
    (
        "sign of the energies",
        "state.energy - new.energy",
        "new.energy - state.energy",
        on("gaussian"),
    ),
    (
        "momentum not in the ratio",
        " + (squared_norm(p) - squared_norm(last)) / 2",
        "",
        on("gaussian"),
    ),
    (
        "½ missing from the kinetic energy",
        "squared_norm(last)) / 2",
        "squared_norm(last))",
        on("gaussian"),
    ),
    ("reflection without momentum flip", "half if turned is None else turned", "half", WALLS),
    ("no accept step", COIN, UNJUDGED, on("gaussian")),
    ("no accept step, seen by the joint test", COIN, UNJUDGED, JOINT),
    ("acceptance summed over the batch", COIN, SUMMED, SEPARATE),
)
KERNEL = bugs(
    "kernel",
    "metropolis",
    lambda m: m.MALA(0.2),
    ("> for <", "u < rate", "u > rate", on("gaussian")),
    (
        "u < log ratio",
        "log_ratio.clamp(max=0.0).exp()",
        "log_ratio.clamp(0.0, 1.0)",
        on("gaussian"),
    ),
    (
        "one coin for all chains",
        "uniform_like(log_ratio,",
        "uniform_like(log_ratio[:1],",
        on("gaussian"),
    ),
    (
        "takes energies of −∞",
        "torch.where(finite, log_ratio.clamp(max=0.0).exp(), 0.0)",
        "log_ratio.exp()",
        hole("minus inf"),
    ),
    (
        "divergences not counted",
        "old), Info(accept, ~finite, rate)",
        "old), Info(accept, finite & False, rate)",
        hole("nan"),
    ),
    (
        "global generator",
        "uniform_like(log_ratio, generator)",
        "torch.rand_like(log_ratio)",
        REPEATS,
    ),
    through="langevin",
) + bugs(
    "kernel",
    "select",
    lambda m: m.MALA(0.2),
    (
        "stale energy",
        "torch.where(wide[a.dim()], a, b)",
        "b if len(fields) == 1 else torch.where(wide[a.dim()], a, b)",
        FRESH,
    ),
    (
        "stale score",
        "torch.where(wide[a.dim()], a, b)",
        "b if len(fields) == 2 else torch.where(wide[a.dim()], a, b)",
        FRESH,
    ),
    (
        "stale score, seen by the law",
        "fields.append(",
        "fields.append(b if len(fields) == 2 else ",
        on("banana"),
    ),
    through="langevin",
)
HMC = (
    bugs(
        "hmc",
        "leapfrog",
        lambda m: m.HMC(0.4, 4),
        (
            "leapfrog off by one: a kick left out",
            "if left > 1:",
            "if left > 2:",
            on("gaussian", seeds=(0, 1, 2)),
        ),
        (
            "last half kick a whole one",
            "new, shifted(p, new.score, epsilon / 2)",
            "new, shifted(p, new.score, epsilon)",
            on("ten"),
        ),
        (
            "last half kick left out",
            "new, shifted(p, new.score, epsilon / 2)",
            "new, p",
            on("gaussian"),
        ),
        ("reflection without momentum flip", "p if turned is None else turned", "p", WALLS),
    )
    + bugs(
        "hmc",
        "HMC.step",
        lambda m: m.HMC(0.8, 3),
        ("no accept step", COIN, UNJUDGED, on("gaussian")),
        (
            "the same momenta in every step",
            "normal_like(state.x, generator)",
            "normal_like(state.x, torch.Generator())",
            on("gaussian"),
        ),
        (
            "momentum not in the ratio",
            " + (squared_norm(p) - squared_norm(last)) / 2",
            "",
            on("gaussian"),
        ),
    )
    + bugs(
        "hmc",
        "HMC.step",
        lambda m: m.HMC(0.4, 4),
        ("acceptance summed over the batch", COIN, SUMMED, SEPARATE),
    )
    + bugs(
        "hmc",
        "HMC.gradients",
        lambda m: m.HMC(0.4, 4),
        ("2 L gradients declared", "self.leap", "2 * self.leap", COST),
    )
)


def nuts(m: Any) -> Any:
    """NUTS with large steps, for which weights matter."""
    return m.NUTS(1.2, 3)


def small(m: Any) -> Any:
    """NUTS with small steps and deeper trees."""
    return m.NUTS(0.5, 4)


MANY = on("gaussian", count=60_000)
TRIES = on("gaussian")
NUTS = (
    bugs(
        "nuts",
        "NUTS._double",
        nuts,
        (
            "newer half taken by the inverse ratio",
            "sub.log_weight - tree.log_weight[chain]",
            "tree.log_weight[chain] - sub.log_weight",
            TRIES,
        ),
        (
            "newer half always taken",
            "coins[1, chain].log() <",
            "coins[1, chain] - math.inf <",
            TRIES,
        ),
        (
            "weight of the tree not updated",
            "torch.logaddexp(tree.log_weight[chain], sub.log_weight)",
            "tree.log_weight[chain]",
            TRIES,
        ),
        (
            "momentum not turned back after a backward walk",
            "p=sign * sub.end.p",
            "p=sub.end.p",
            TRIES,
        ),
    )
    + bugs(
        "nuts",
        "NUTS._double",
        small,
        (
            "an end keeps its old score",
            "sub.end, rows)",
            "(*sub.end[:2], end.score[chain]), rows)",
            MANY,
        ),
    )
    + bugs(
        "nuts", "_sprout", small, ("no walk is ever backwards", "per_row(sign, p) * p", "p", MANY)
    )
    + bugs(
        "nuts",
        "NUTS.step",
        nuts,
        (
            "½ missing from the first kinetic energy",
            "squared_norm(p) / 2",
            "squared_norm(p)",
            TRIES,
        ),
    )
    + bugs(
        "nuts",
        "NUTS._stretches",
        small,
        (
            "turns of stretches within not looked at",
            "sub.alive &= ~self._turned",
            "self._turned",
            TRIES,
        ),
        (
            "turns of the shortest stretches alone",
            "slot - ending + 1 : slot + 1",
            "slot : slot + 1",
            TRIES,
        ),
    )
    + bugs(
        "nuts",
        "NUTS._leaf",
        nuts,
        (
            "the last leaf is the draw",
            "sub.coins[:, leaf % SLAB] < gain - sub.log_weight",
            "sub.alive",
            TRIES,
        ),
        (
            "leaves drawn evenly",
            "logaddexp(sub.log_weight, gain)",
            "logaddexp(sub.log_weight, 0 * gain)",
            TRIES,
        ),
        ("gradients counted twice", "sub.paid += 1", "sub.paid += 2", COST),
    )
)
UNADJUSTED = (
    bugs(
        "langevin",
        "Langevin.step",
        lambda m: m.Langevin(0.3),
        ("√2 dropped", "2 * h * self.temperature", "h * self.temperature", law()),
        ("noise × 0.97", "self.temperature) ** 0.5", "self.temperature) ** 0.5 * 0.97", law()),
        ("sign of the score", "alpha=drift", "alpha=-drift", law()),
        ("drift h/2", "alpha=drift", "alpha=drift / 2", law()),
        (
            "score of the last point kept",
            "self.init(energy, y)",
            "State(y, self.init(energy, y).energy, state.score)",
            FRESH,
        ),
        (
            "clamps where it should reflect",
            "y, _ = energy.domain.reflect(y)",
            "y = y.clamp(energy.domain.lo, energy.domain.hi)",
            on("flat"),
        ),
    )
    + bugs(
        "langevin",
        "Langevin.step",
        lambda m: m.Langevin(0.3, 0.5),
        ("noise not tied to the temperature", "2 * h * self.temperature", "2 * h", law(0.5)),
    )
    + bugs(
        "langevin",
        "Langevin.step",
        lambda m: m.Langevin(0.15, scale=(1.5,)),
        ("drift of S for that of S²", "self.scale, state.x) ** 2", "self.scale, state.x)", SCALED),
        (
            "noise without its scale",
            "self.temperature) ** 0.5, self.scale",
            "self.temperature) ** 0.5, None",
            SCALED,
        ),
    )
    + bugs(
        "langevin",
        "LeimkuhlerMatthews.step",
        lambda m: m.LeimkuhlerMatthews(0.42),
        (
            "the old noise forgotten: first order",
            "if state.noise is None else state.noise",
            "",
            ORDER,
        ),
        ("drift of half a step", "2 * half**2", "half**2", ORDER),
        ("the old noise kept for ever", "fresh if turned is None else turned", "old", ORDER),
        (
            "noise not turned at the walls",
            "fresh if turned is None else turned",
            "fresh",
            on("flat"),
        ),
    )
    + bugs(
        "underdamped",
        "Underdamped.step",
        lambda m: m.Underdamped(0.7),
        (
            "last kick with the old score: first order",
            "turned, new.score, half)",
            "turned, state.score, half)",
            ORDER,
        ),
        (
            "momentum damped, noise left whole",
            "normal_like(p, generator), drawn)",
            "normal_like(p, generator), 1.0)",
            ORDER,
        ),
        (
            "the second drift a whole one",
            "reflect(shifted(x, p, half), p)",
            "reflect(shifted(x, p, 2 * half), p)",
            ORDER,
        ),
        (
            "momentum not turned at the walls",
            "kept * (p if turned is None else turned)",
            "kept * p",
            on("flat"),
        ),
    )
)
GHMC = bugs(
    "underdamped",
    "GHMC.step",
    lambda m: m.GHMC(1.4, 0.3),
    (
        "no momentum flip where refused",
        "MovingState(*here, -p)",
        "MovingState(*here, p)",
        on("gaussian"),
    ),
    (
        "no accept step",
        "MovingState(*new, last), log_ratio,",
        "MovingState(*new, last), None,",
        on("gaussian"),
    ),
) + bugs(
    "underdamped",
    "_damping",
    lambda m: m.GHMC(1.4, 0.3),
    (
        "momentum never refreshed",
        "return math.exp(-friction * step_size),",
        "return 1.0, 0.0 *",
        ARRIVES,
    ),
    (
        "noise that does not make up for the damping",
        "expm1(-2 * friction",
        "expm1(-friction",
        on("gaussian"),
    ),
)


def ladder(m: Any) -> Any:
    """Parallel tempering of MALA on three rungs."""
    return m.ParallelTempering(sound.MALA(0.2), (1.0, 2.0, 4.0), (0.2, 0.4, 0.8))


TEMPERING = (
    bugs(
        "tempering",
        "ParallelTempering.swap",
        ladder,
        ("odd pairs never swap", "state.sweeps % 2", "0", TRAVEL),
        ("sign of the ratio", "betas[:-1] - betas[1:]", "betas[1:] - betas[:-1]", on("banana")),
        ("ratio of tempered energies", " / betas.unsqueeze(1)\n", "\n", on("banana")),
        (
            "energies and scores not rescaled",
            "rescaled(moved, (betas.unsqueeze(1) / betas[source]).flatten())",
            "moved",
            FRESH,
        ),
        (
            "rescaled the wrong way",
            "betas.unsqueeze(1) / betas[source]",
            "betas[source] / betas.unsqueeze(1)",
            FRESH,
        ),
        (
            "energies swapped, points not",
            "for part in old))",
            "for part in old))._replace(x=old.x)",
            FRESH,
        ),
        (
            "a replica is copied instead of swapped",
            "source[1:] -= accept.long()",
            "source[1:] -= 0",
            on("banana"),
        ),
        (
            "all pairs at once",
            "(torch.arange(rungs - 1, device=betas.device) % 2 == state.sweeps % 2)",
            "torch.ones(rungs - 1).bool()",
            TRAVEL,
        ),
    )
    + bugs(
        "tempering",
        "_travelled",
        ladder,
        ("visits counted for round trips", "heading[0] == -1", "heading[0] == 1", TRAVEL),
    )
    + bugs(
        "tempering",
        "Tempered.analytic",
        ladder,
        ("hot scores not tempered", "per_row(self.beta, x) * score", "score", FRESH),
        ("hot energies not tempered", "self.beta * value", "value", FRESH),
    )
    + bugs(
        "tempering",
        "Tempered.conditional",
        lambda m: m.ParallelTempering(sound.BlockGibbs(), (1.0, 2.0)),
        (
            "hot conditionals not tempered",
            "per_row(self.beta, found) * found",
            "found",
            on("lattice", seeds=(0, 1, 2)),
        ),
    )
)
GWG = bugs(
    "discrete",
    "GibbsWithGradients.step",
    lambda m: m.GibbsWithGradients(),
    (
        "reverse probability left out",
        "back - forth.gather(1, chosen)",
        "-forth.gather(1, chosen)",
        listed("bits"),
    ),
    (
        "proposal probabilities left out",
        "(back - forth.gather(1, chosen))",
        "(0 * back)",
        listed("bits"),
    ),
    (
        "reverse probability with the old gains",
        "self._log_probabilities(new, changed)",
        "self._log_probabilities(state, changed)",
        listed("bits"),
    ),
    (
        "wrong reverse of a class: all is refused",
        "site * classes + old.long()",
        "chosen",
        on("classes"),
    ),
    (
        "stale gains",
        COIN,
        "metropolis(state, new._replace(gains=state.gains), log_ratio, generator)",
        listed("bits"),
    ),
    (
        "stale gains, seen exactly",
        COIN,
        "metropolis(state, new._replace(gains=state.gains), log_ratio, generator)",
        BINARY,
    ),
    ("no accept step", COIN, UNJUDGED, listed("bits")),
) + bugs(
    "discrete",
    "local_state",
    lambda m: m.GibbsWithGradients(),
    ("sign of the gains", "1 - 2 * x", "2 * x - 1", BINARY),
)
DMALA = bugs(
    "discrete",
    "DMALA.step",
    lambda m: m.DMALA(0.5),
    ("reverse probability left out", "back.gather(2, undo.unsqueeze(2)) -", "-", listed("bits")),
    (
        "step cost missing in the reverse",
        "self._log_probabilities(new, changed)",
        "type(self)(1e9)._log_probabilities(new, changed)",
        listed("bits", 20_000),
    ),
    (
        "wrong reverse of classes",
        "choice.to(flat.dtype), flat.long()",
        "choice.to(flat.dtype), choice",
        listed("classes"),
    ),
    ("mean over sites for the sum", ".flatten(1).sum(1)", ".flatten(1).mean(1)", listed("bits")),
    (
        "sign of the proposal ratio",
        "new.energy + difference",
        "new.energy - difference",
        listed("bits"),
    ),
    ("no accept step", COIN, UNJUDGED, listed("bits")),
)
GIBBS = (
    bugs(
        "discrete",
        "draw_conditional",
        lambda m: m.BlockGibbs(),
        (
            "sign of the log-odds",
            "torch.sigmoid(logits)",
            "torch.sigmoid(-logits)",
            listed("lattice"),
        ),
    )
    + bugs(
        "discrete",
        "_gumbel",
        lambda m: m.BlockGibbs(),
        ("smallest Gumbel for the largest", "-noise.log()", "noise.log()", listed("classes")),
    )
    + bugs(
        "discrete",
        "colours_of",
        lambda m: m.BlockGibbs(),
        (
            "all sites at once",
            "torch.eye(x[0].numel(), dtype=torch.bool, device=x.device)",
            "torch.ones(1, x[0].numel(), dtype=torch.bool)",
            listed("bits"),
        ),
    )
    + bugs(
        "discrete",
        "BlockGibbs._sweep",
        lambda m: m.BlockGibbs(),
        (
            "one colour is never drawn",
            "[*colours_of(energy, x)]",
            "[*colours_of(energy, x)][1:]",
            ARRIVES_AT_BITS,
        ),
        (
            "all colours from the first conditionals",
            "in [*colours_of(energy, x)] * self.sweeps:\n            logits = "
            "conditional_of(energy, x,",
            "in [*colours_of(energy, first := x)] * self.sweeps:\n            logits = "
            "conditional_of(energy, first,",
            listed("lattice"),
        ),
    )
    + bugs(
        "discrete",
        "conditional_of",
        lambda m: m.BlockGibbs(),
        ("sign of the energies", "-value,", "value,", listed("bits")),
    )
)
MUTANTS: tuple[Mutant, ...] = tuple(
    MALA + KERNEL + HMC + NUTS + UNADJUSTED + GHMC + TEMPERING + GWG + DMALA + GIBBS
)

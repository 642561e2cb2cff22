"""Deep Boltzmann machines against full enumeration: bound, mean field, gradients, block Gibbs, log
Z, training.
"""

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from contract.cases import seeded
from torch import Tensor

import lowland
from lowland import BlockGibbs, ReplayBuffer, binary, sample
from lowland.metrics import log_z
from lowland.nets import DBM
from lowland.objectives import CD, PCD, Batch, Context
from lowland.training.session import Session

DOUBLE = torch.float64


def states(n: int) -> Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=n)), dtype=DOUBLE)


def machine(
    seed: int = 0,
    shape: tuple[int, ...] = (5,),
    hidden: tuple[int, int] = (4, 3),
    scale: float = 0.7,
) -> DBM:
    """A machine in double precision with weights and biases of that size."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        dbm = DBM(binary(*shape), n_hidden=hidden, iterations=5000, tolerance=0.0).double()
        for p in dbm.parameters():
            torch.nn.init.normal_(p, std=scale)
    return dbm


def exact_log_z(dbm: DBM) -> Tensor:
    return (-dbm(states(dbm.domain.shape[0]))).logsumexp(0)


def exact_log_p(dbm: DBM, v: Tensor) -> Tensor:
    """log p(v), h² summed out state by state."""
    second = states(dbm.n_hidden[1])
    x = torch.cat([v.flatten(1).repeat_interleave(len(second), 0), second.repeat(len(v), 1)], 1)
    return (-dbm(x)).view(len(v), -1).logsumexp(1) - exact_log_z(dbm)


def joint_energy(dbm: DBM, v: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """E(v, h¹, h²) as it is written down, with no machine in between."""
    w, d = dbm.machine.weight, dbm.size
    a, c = dbm.machine.visible_bias, dbm.machine.hidden_bias
    linear = v @ a[:d] + second @ a[d:] + first @ c
    return -linear - ((v @ w[:d]) * first).sum(1) - ((second @ w[d:]) * first).sum(1)


# ---- the energy and the bound --------------------------------------------------------------------


def test_the_energy_is_the_joint_one_with_the_first_layer_summed_out() -> None:
    dbm, x, first = machine(), states(8), states(4)
    rows, each = x.repeat_interleave(16, 0), first.repeat(len(x), 1)
    summed = (-joint_energy(dbm, rows[:, :5], each, rows[:, 5:])).view(len(x), 16).logsumexp(1)
    torch.testing.assert_close(-dbm(x), summed, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_bound_is_below_log_p_and_not_far(seed: int) -> None:
    dbm, v = machine(seed), states(5)
    truth = exact_log_p(dbm, v)
    assert abs(truth.exp().sum().item() - 1) < 1e-12
    gap = truth - (dbm.variational_bound(v) - exact_log_z(dbm))
    assert gap.min() > 0 and gap.mean() < 0.5
    worse = DBM(
        binary(5), n_hidden=(4, 3), iterations=1
    ).double()  # one pass of mean field: a bound still, a looser one
    worse.load_state_dict(dbm.state_dict())
    looser = truth - (worse.variational_bound(v) - exact_log_z(dbm))
    assert looser.min() > 0 and (looser > gap - 1e-12).all() and looser.mean() > gap.mean() + 1e-4


def test_the_bound_is_tight_where_the_layers_do_not_meet() -> None:
    dbm = machine()
    with torch.no_grad():
        dbm.machine.weight[5:] = 0
    v = states(5)
    torch.testing.assert_close(
        dbm.variational_bound(v) - exact_log_z(dbm), exact_log_p(dbm, v), rtol=1e-10, atol=1e-10
    )


def test_the_bound_is_the_expectation_under_the_mean_field_law_plus_its_entropy() -> None:
    dbm, v = machine(), states(5)[:7]
    first, second = dbm.mean_field(v)
    total = v.new_zeros(len(v))
    for h1 in states(4):
        for h2 in states(3):
            q = torch.where(h1 > 0, first, 1 - first).prod(1) * torch.where(
                h2 > 0, second, 1 - second
            ).prod(1)
            energy = joint_energy(dbm, v, h1.expand(len(v), -1), h2.expand(len(v), -1))
            total = total + q * (-energy - q.log())
    torch.testing.assert_close(dbm.variational_bound(v), total, rtol=1e-9, atol=1e-9)


def test_the_bound_is_an_energy_of_data() -> None:
    dbm, x = machine(shape=(1, 5)), states(5).view(32, 1, 1, 5)[:, 0]
    energy = lowland.energy.check_energy(dbm.marginal(), x)
    assert energy.domain == binary(1, 5) and torch.equal(energy(x), -dbm.variational_bound(x))
    assert (exact_log_p(dbm, x) > -energy(x) - exact_log_z(dbm)).all()
    with pytest.raises(ValueError, match=r";.*;"):
        energy(x, torch.zeros(32, dtype=torch.long))


# ---- mean field ----------------------------------------------------------------------------------


def test_mean_field_solves_its_equations_and_rows_are_on_their_own() -> None:
    dbm, v = machine(1), states(5)
    first, second = dbm.mean_field(v)
    w, a, c = dbm.machine.weight, dbm.machine.visible_bias, dbm.machine.hidden_bias
    torch.testing.assert_close(
        first, torch.sigmoid(c + v @ w[:5] + second @ w[5:]), rtol=1e-9, atol=1e-9
    )
    torch.testing.assert_close(
        second, torch.sigmoid(a[5:] + first @ w[5:].t()), rtol=1e-9, atol=1e-9
    )
    rough = copy.deepcopy(dbm)
    rough.tolerance = 1e-2
    alone = torch.cat([rough.mean_field(row.unsqueeze(0)).second for row in v])
    torch.testing.assert_close(rough.mean_field(v).second, alone, rtol=1e-12, atol=1e-12)
    assert 0 < (alone - second).abs().max() < 0.2


def test_every_pass_of_mean_field_raises_the_bound() -> None:
    dbm, v, last = machine(2, scale=1.5), states(5), torch.full((32,), -math.inf, dtype=DOUBLE)
    for iterations in (1, 2, 3, 5, 10, 100):
        dbm.iterations = iterations
        bound = dbm.variational_bound(v)
        assert (bound > last - 1e-12).all()
        last = bound.detach()


def test_completed_data_keep_their_pixels_and_joined_data_are_draws() -> None:
    dbm = machine(shape=(1, 2, 3))
    v = binary(1, 2, 3).draw(4000, seeded(), dtype=DOUBLE)[:1].repeat(4000, 1, 1, 1)
    full, drawn = dbm.impute(v, seeded()), dbm.sample_latents(v, seeded(1))
    assert (
        torch.equal(dbm.visible(full), v)
        and torch.equal(dbm.visible(drawn), v)
        and dbm.domain.contains(drawn).all()
    )
    mean = full[0, 6:]
    error = (mean * (1 - mean) / 4000).sqrt()
    assert ((drawn[:, 6:].mean(0) - mean).abs() < 5 * error).all() and mean.std() > 0.01


# ---- gradients -----------------------------------------------------------------------------------


def test_the_contrast_of_completed_data_has_the_gradient_of_the_bound() -> None:
    """Against central differences of −bound + log Z, mean field solved anew at every point and Z
    summed over all states.
    """
    dbm, v = machine(3, shape=(3,), hidden=(3, 2)), states(3)[[0, 3, 5, 5]]
    x = states(5)
    p = (-dbm(x)).detach().softmax(0)
    value = dbm(dbm.impute(v)).mean() - (p * dbm(x)).sum()
    gradient = torch.autograd.grad(value, list(dbm.parameters()))
    for parameter, found in zip(dbm.parameters(), gradient, strict=True):
        for i in range(parameter.numel()):
            ends = []
            for step in (1e-5, -2e-5, 1e-5):
                with torch.no_grad():
                    parameter.view(-1)[i] += step
                    ends.append((exact_log_z(dbm) - dbm.variational_bound(v).mean()).item())
            difference = (ends[0] - ends[1]) / 2e-5
            assert abs(found.reshape(-1)[i].item() - difference) < 1e-7
    assert max(g.abs().max() for g in gradient) > 0.05


@pytest.mark.parametrize("objective", [PCD(steps=2, buffer_size=30, num_chains=20), CD(steps=2)])
def test_objectives_complete_the_data(objective: Any) -> None:
    dbm, v = machine(), states(5)[:12]
    buffer = (
        ReplayBuffer(30, dbm.domain, generator=seeded(1), reinit_prob=0.0, dtype=DOUBLE)
        if objective.persistent
        else None
    )
    loss = objective.loss(dbm, Batch(v), Context(seeded(2), sampler=BlockGibbs(), buffer=buffer))
    assert loss.negatives is not None and dbm.domain.contains(loss.negatives).all()
    assert len(loss.negatives) == (20 if objective.persistent else 12)
    torch.testing.assert_close(loss.value, dbm(dbm.impute(v)).mean() - dbm(loss.negatives).mean())


def test_the_centred_gradient_is_that_of_the_restricted_machine() -> None:
    dbm, v = machine(), states(5)
    dbm.machine.update_offsets(dbm.impute(v), rate=1.0)
    torch.testing.assert_close(dbm.machine.visible_offset, dbm.impute(v).mean(0))
    dbm(dbm.impute(v)).mean().backward()
    plain = [p.grad.clone() for p in dbm.parameters() if p.grad is not None]
    other = copy.deepcopy(dbm.machine)
    for p, g in zip(other.parameters(), plain, strict=True):
        p.grad = g.clone()
    other.center_gradients()
    dbm.learner.center_gradients()
    for p, q, g in zip(dbm.parameters(), other.parameters(), plain, strict=True):
        assert p.grad is not None and q.grad is not None
        assert torch.equal(p.grad, q.grad) and not torch.equal(p.grad, g)


# ---- chains and log Z ----------------------------------------------------------------------------


def chi_square(dbm: DBM, moved: Tensor) -> float:
    """How many standard deviations the chi-square of counts over all states is above its mean."""
    p = (-dbm(states(dbm.domain.shape[0]))).detach().softmax(0)
    place = 2 ** torch.arange(moved.shape[1] - 1, -1, -1, dtype=DOUBLE)
    counts = torch.bincount((moved @ place).long(), minlength=len(p)).double()
    expected = p * len(moved)
    pooled = expected < 5
    if pooled.any():
        counts = torch.cat([counts[~pooled], counts[pooled].sum().view(1)])
        expected = torch.cat([expected[~pooled], expected[pooled].sum().view(1)])
    degrees = len(counts) - 1
    return (((counts - expected).square() / expected).sum().item() - degrees) / math.sqrt(
        2 * degrees
    )


@pytest.mark.parametrize("broken", [False, True])
def test_block_gibbs_leaves_the_law_as_it_is(broken: bool) -> None:
    dbm = machine(4)
    p = (-dbm(states(8))).detach().softmax(0)
    start = states(8)[torch.multinomial(p, 40_000, replacement=True, generator=seeded())]
    moving = copy.deepcopy(dbm)
    # the second layer does not feel the first: a machine whose sweep forgot a half of the weights
    if broken:
        with torch.no_grad():
            moving.machine.weight[5:] *= 0.8
    moved = sample(moving, BlockGibbs(), start, 3, generator=seeded(1)).x
    z = chi_square(dbm, moved)
    assert abs(chi_square(dbm, start)) < 5
    assert z > 5 if broken else abs(z) < 5


def test_log_z_is_the_sum_over_the_first_layer_and_annealing_brackets_it() -> None:
    dbm = machine(5, scale=1.0)
    truth = exact_log_z(dbm).item()
    side = dbm.latent.hidden_marginal()
    assert abs((-side(states(4))).logsumexp(0).item() - truth) < 1e-10
    assert abs(log_z(dbm, generator=seeded()).value - truth) < 1e-9
    data = dbm.sample_latents(states(5), seeded())
    found = log_z(dbm, data=data, chains=200, num_temperatures=100, generator=seeded(), exact=False)
    assert (
        found.sampler == "BlockGibbs"
        and found.lower <= truth <= found.upper
        and found.upper - found.lower < 0.5
    )
    assert "bridge" in found.details


def test_tempered_rows_end_at_the_machine() -> None:
    dbm, x = machine(), states(8)[:6]
    rows = dbm.paths.at_temperatures(torch.tensor([1.0, 0.5], dtype=DOUBLE), 3)
    torch.testing.assert_close(rows(x)[:3], dbm(x)[:3])


# ---- training ------------------------------------------------------------------------------------


def test_it_starts_at_the_means_of_the_data() -> None:
    dbm, v = DBM(binary(5), n_hidden=(4, 3)), states(5)[20:].float()
    dbm.init_from_data(v)
    share = (v.sum(0) + 1) / (len(v) + 2)
    torch.testing.assert_close(dbm.machine.visible_bias[:5].sigmoid(), share)
    assert torch.equal(dbm.machine.visible_bias[5:], torch.zeros(3))


def bars() -> lowland.data.Dataset:
    """Vertical or horizontal bars of 3 × 3 pixels: 14 patterns, each as often."""
    some = states(3)
    tall, wide = some.view(8, 1, 3).expand(8, 3, 3), some.view(8, 3, 1).expand(8, 3, 3)
    x = torch.cat([tall, wide[1:-1]]).reshape(-1, 1, 3, 3).float().repeat(40, 1, 1, 1)
    part = lowland.data.Split(x)
    return lowland.data.Dataset("bars", binary(1, 3, 3), part, part, part, binarization="fixed")


def recipe(energy: dict[str, Any], steps: int) -> dict[str, Any]:
    training = {
        "steps": steps,
        "batch": 56,
        "optimizer": "sgd",
        "learning_rate": 0.5,
        "warmup": 0,
        "decay_fraction": 1.0,
        "grad_clip_norm": 0.0,
    }
    return {
        "seed": 0,
        "energy": energy,
        "objective": {
            "name": "PCD",
            "steps": 1,
            "buffer_size": 100,
            "num_chains": 100,
            "reinit_prob": 0.0,
        },
        "sampler": {"name": "BlockGibbs"},
        "training": training
        | {"tail_average_fraction": 0.2, "log_every": 10, "checkpoint_every": steps},
    }


def test_training_raises_the_exact_likelihood_above_that_of_independent_pixels() -> None:
    data = bars()
    session = Session(recipe({"name": "DBM", "n_hidden": [8, 6], "init_std": 0.1}, 600), data)
    before = session.energy.double()
    v = data.train.x[:14].double()
    start = exact_log_p(before, v).mean().item()  # type: ignore[arg-type]
    session.energy.float()
    for _ in range(600):
        session.advance()
    trained = session.ema.module.double()
    assert isinstance(trained, DBM)
    found = exact_log_p(trained, v).mean().item()
    trained.iterations, trained.tolerance = 1000, 0.0
    bound = (trained.variational_bound(v) - exact_log_z(trained)).mean().item()
    assert (
        abs(start - 9 * math.log(0.5)) < 0.1
        and -math.log(14) > found > -3.6
        and found - 0.5 < bound < found
    )


def test_a_run_is_read_back(tmp_path: Any) -> None:
    values = recipe({"name": "DBM", "n_hidden": [8, 6]}, 20) | {
        "generation": {"sampler": {"name": "BlockGibbs"}}
    }
    trained = lowland.train_recipe(values, tmp_path / "run", data=bars(), progress=False)
    again = lowland.load(tmp_path / "run").energy
    x = trained.domain.draw(10, seeded())
    assert (
        isinstance(again, DBM)
        and again.data_domain.shape == (1, 3, 3)
        and torch.equal(again(x), trained(x))
    )


@pytest.mark.parametrize(
    ("domain", "settings"),
    [
        (lowland.real(3), {}),
        (lowland.categorical(3, 4), {}),
        (binary(4), {"n_hidden": (3,)}),
        (binary(4), {"n_hidden": (3, 0)}),
        (binary(4), {"iterations": 0}),
        (binary(4), {"tolerance": -1.0}),
        (binary(4), {"init_std": math.nan}),
    ],
)
def test_what_makes_no_machine_is_refused(domain: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r";.*;"):
        DBM(domain, **({"n_hidden": (3, 2)} | settings))

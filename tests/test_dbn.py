"""Deep belief nets against full enumeration: law, bound, theorem, chains, wake and sleep, greedy
training, classifier.
"""

import copy
import itertools
import math
from typing import Any, cast

import pytest
import torch
from contract.cases import seeded
from torch import Tensor, nn

import lowland
from lowland import BlockGibbs, ReplayBuffer, binary, sample
from lowland.nets import DBN, RBM
from lowland.nets.boltzmann.dbn import Directed, transpose
from lowland.objectives import Batch, Context
from lowland.objectives.wake_sleep import WakeSleep
from lowland.training.layerwise import greedy, hidden_data

DOUBLE = torch.float64


def states(n: int) -> Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=n)), dtype=DOUBLE)


def shaken(module: Any, seed: int = 0, scale: float = 0.8) -> Any:
    """The module in double precision with all weights drawn at that scale."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for p in module.double().parameters():
            torch.nn.init.normal_(p, std=scale)
    return module


def net(seed: int = 0, hidden: tuple[int, ...] = (4, 3, 3), scale: float = 0.8) -> DBN:
    return cast(DBN, shaken(DBN(binary(4), n_hidden=hidden), seed, scale))


def pairs(dbn: DBN, v: Tensor) -> Tensor:
    """Every completion of every row of v: (rows, completions, D + H1 + …)."""
    rest = states(dbn.domain.shape[0] - 4)
    return torch.cat([v.repeat_interleave(len(rest), 0), rest.repeat(len(v), 1)], 1).view(
        len(v), len(rest), -1
    )


def exact_log_p(dbn: DBN, v: Tensor) -> Tensor:
    full = pairs(dbn, v)
    log_z = (-dbn.top(states(dbn.sizes[-2]))).logsumexp(0)
    return (-dbn(full.flatten(0, 1))).view(full.shape[:2]).logsumexp(1) - log_z


# ---- the law -------------------------------------------------------------------------------------


def test_the_joint_law_has_the_normaliser_of_the_machine_on_top() -> None:
    dbn = net()
    whole = (-dbn(states(11))).logsumexp(0)
    torch.testing.assert_close(whole, (-dbn.top(states(3))).logsumexp(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        whole, (-dbn.latent.hidden_marginal()(states(3))).logsumexp(0), rtol=1e-12, atol=1e-12
    )
    torch.testing.assert_close(
        exact_log_p(dbn, states(4)).exp().sum(), torch.tensor(1.0, dtype=DOUBLE)
    )


def test_given_a_layer_the_one_below_is_independent_coins() -> None:
    """p(v | h) by enumeration of the joint energy, against the coins that `generation` is made
    of.
    """
    dbn, v = net(1, hidden=(3, 2)), states(4)
    layer = cast(Directed, dbn.layers[0])
    for h in states(3):
        conditional = (-dbn(torch.cat([v, h.expand(16, -1)], 1))).softmax(0)
        means = torch.sigmoid(layer.down_weight @ h + layer.down_bias)
        coins = torch.where(v > 0, means, 1 - means).prod(1)
        torch.testing.assert_close(conditional, coins, rtol=1e-10, atol=1e-12)


# ---- the bound -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
def test_the_bound_is_below_log_p_and_weights_are_unbiased(seed: int) -> None:
    dbn, v = net(seed), states(4)
    log_z, truth = (-dbn.top(states(3))).logsumexp(0), exact_log_p(dbn, v)
    full = pairs(dbn, v)
    flat = full.flatten(0, 1)
    log_q = -dbn.recognition(flat).view(full.shape[:2])
    log_w = (-dbn(flat)).view(full.shape[:2]) - log_q
    torch.testing.assert_close(log_q.exp().sum(1), torch.ones(16, dtype=DOUBLE))
    exact_bound = (log_q.exp() * log_w).sum(1)
    assert (exact_bound - log_z < truth).all()
    found = dbn.variational_bound(v, seeded(seed), draws=4000)
    assert ((found.value - exact_bound).abs() < 5 * found.error).all() and (found.error < 0.1).all()
    w = (dbn.log_weights(v, 4000, seeded(seed + 9)) - truth - log_z).exp()
    assert ((w.mean(0) - 1).abs() < 5 * w.std(0) / math.sqrt(4000)).all()


def test_one_layer_is_a_restricted_machine_and_its_bound_is_tight() -> None:
    dbn, v = net(2, hidden=(5,)), states(4)
    found = dbn.variational_bound(v, seeded(), draws=3)
    torch.testing.assert_close(found.value, -dbn.top(v), rtol=1e-12, atol=1e-12)
    assert (found.error < 1e-9).all()
    torch.testing.assert_close(exact_log_p(dbn, v), -dbn.top(v) - (-dbn.top(v)).logsumexp(0))


def test_a_transposed_machine_on_top_leaves_the_law_as_it_is() -> None:
    """Hinton's theorem: the bound of the stack is log p of the machine below, whatever is drawn."""
    below = cast(RBM, shaken(RBM(binary(4), n_hidden=3)))
    dbn, v = DBN(binary(4), n_hidden=(3, 4)).double(), states(4)
    dbn.adopt(0, below)
    dbn.adopt(1, transpose(below))
    log_p = -below(v) - (-below(v)).logsumexp(0)
    log_z = (-dbn.top(states(3))).logsumexp(0)
    torch.testing.assert_close(exact_log_p(dbn, v), log_p, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        dbn.log_weights(v, 3, seeded()) - log_z, log_p.expand(3, -1), rtol=1e-10, atol=1e-10
    )
    untied = copy.deepcopy(dbn)
    with torch.no_grad():
        untied.top.weight *= 0.9
    assert (exact_log_p(untied, v) - log_p).abs().max() > 1e-3


def test_more_units_of_no_weight_leave_the_law_as_it_is_too() -> None:
    below = cast(RBM, shaken(RBM(binary(4), n_hidden=3)))
    wide, v = transpose(below, 7, seeded()), states(3)
    assert (
        wide.n_hidden == 7 and (wide.weight[:, 4:].std() < 0.03) and (wide.weight[:, 4:] != 0).all()
    )
    with torch.no_grad():
        wide.weight[:, 4:] = 0
    torch.testing.assert_close(
        (-wide(v)).softmax(0), (-below.hidden_marginal()(v)).softmax(0), rtol=1e-10, atol=1e-12
    )
    dbn = DBN(binary(4), n_hidden=(3, 7, 2)).double()
    start = dbn.successor(1, below, seeded())
    assert start is not None and start.n_hidden == 7 and dbn.successor(2, wide, seeded()) is None
    for options in ((3, seeded()), (7, None)):
        with pytest.raises(ValueError, match=r";.*;"):
            transpose(below, *options)


# ---- chains --------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", [False, True])
def test_a_sweep_leaves_the_law_as_it_is(broken: bool) -> None:
    dbn = net(3, hidden=(3, 2, 2))
    everything = states(9)
    p = (-dbn(everything)).detach().softmax(0)
    start = everything[torch.multinomial(p, 60_000, replacement=True, generator=seeded())]
    moving = copy.deepcopy(dbn)
    if broken:
        with torch.no_grad():
            cast(Directed, moving.layers[1]).down_weight *= 0.8
    moved = sample(moving, BlockGibbs(2), start, 2, generator=seeded(1)).x
    place = 2 ** torch.arange(8, -1, -1, dtype=DOUBLE)
    counts, expected = (
        torch.bincount((moved @ place).long(), minlength=512).double(),
        p * len(moved),
    )
    kept = expected > 5
    z = ((counts - expected).square() / expected)[kept].sum() - kept.sum()
    z = (z / (2 * kept.sum()).sqrt()).item()
    assert z > 5 if broken else abs(z) < 5


def test_fantasies_follow_the_law_of_the_data_side() -> None:
    dbn = net(4, scale=0.5)
    x = dbn.fantasies(40_000, 60, seeded())
    p = exact_log_p(dbn, states(4)).exp().detach()
    counts = torch.bincount(
        (x @ (2 ** torch.arange(3, -1, -1, dtype=DOUBLE))).long(), minlength=16
    ).double()
    z = (counts / len(x) - p) / (p * (1 - p) / len(x)).sqrt()
    assert z.abs().max() < 5


# ---- wake and sleep ------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [0, 40])
def test_wake_and_sleep_have_the_gradients_of_the_paper(capacity: int) -> None:
    """Delta rules by hand: generative weights at completed data, recognition weights at dreams, a
    contrast on top.
    """
    dbn, v, objective = net(5), states(4)[3:13], WakeSleep(steps=3, buffer_size=capacity)
    buffer = (
        ReplayBuffer(40, dbn.domain, generator=seeded(1), reinit_prob=0.0, dtype=DOUBLE)
        if objective.persistent
        else None
    )
    assert objective.persistent == bool(capacity)
    loss = objective.loss(dbn, Batch(v), Context(seeded(2), sampler=BlockGibbs(), buffer=buffer))
    loss.value.backward()
    awake, dreams = (
        dbn.split(dbn.sample_latents(v, seeded(2))),
        dbn.split(cast(Tensor, loss.negatives)),
    )
    for k, layer in enumerate(cast(list[Directed], list(dbn.layers))):
        with torch.no_grad():
            miss = awake[k] - torch.sigmoid(layer.down(awake[k + 1]))
            down = {"down_weight": -miss.t() @ awake[k + 1], "down_bias": -miss.sum(0)}
            miss = dreams[k + 1] - torch.sigmoid(layer.up(dreams[k]))
            up = {"up_weight": -dreams[k].t() @ miss, "up_bias": -miss.sum(0)}
        for name, wanted in (down | up).items():
            found = getattr(layer, name).grad
            torch.testing.assert_close(found, wanted / len(v), rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        h, other = (
            torch.sigmoid(dbn.top.fields(awake[-1])),
            torch.sigmoid(dbn.top.fields(dreams[-1])),
        )
        wanted = -(awake[-1].t() @ h - dreams[-1].t() @ other) / len(v)
    torch.testing.assert_close(dbn.top.weight.grad, wanted, rtol=1e-10, atol=1e-10)


def test_generative_gradients_are_those_of_the_bound() -> None:
    """Averaged over recognition and exact dreams, by enumeration, the wake phase climbs E_q[log
    p(v, h) − log q].
    """
    dbn, v = net(6, hidden=(3, 2)), states(4)[[1, 6, 6, 11]]
    full = pairs(dbn, v)
    flat, everything = full.flatten(0, 1), states(7)
    q = (-dbn.recognition(flat)).exp().detach() / len(v)
    log_z = (-dbn.top(states(3))).logsumexp(0)
    generative = [dbn.layers[0].down_weight, dbn.layers[0].down_bias, *dbn.top.parameters()]
    wanted = torch.autograd.grad((q * dbn(flat)).sum() + log_z, generative)
    p = (-dbn(everything)).detach().softmax(0)
    contrast = (
        (q * dbn(flat)).sum() - (p * dbn(everything)).sum() + (p * dbn.generation(everything)).sum()
    )
    for a, b in zip(torch.autograd.grad(contrast, generative), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_wake_and_sleep_improve_a_net_and_its_recognition() -> None:
    """From random weights on a law of few patterns: the exact likelihood rises, and the bound comes
    along.
    """
    patterns = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]], dtype=DOUBLE)
    dbn, g, objective = (
        net(7, hidden=(4, 4), scale=0.1),
        seeded(),
        WakeSleep(steps=2, buffer_size=60),
    )
    buffer = ReplayBuffer(60, dbn.domain, generator=seeded(1), reinit_prob=0.0, dtype=DOUBLE)
    before = exact_log_p(dbn, patterns).mean().item()
    optimiser = torch.optim.SGD(dbn.parameters(), lr=0.3)
    for _ in range(600):
        x = patterns[torch.randint(3, (30,), generator=g)]
        optimiser.zero_grad()
        objective.loss(
            dbn, Batch(x), Context(g, sampler=BlockGibbs(), buffer=buffer)
        ).value.backward()
        optimiser.step()
    after = exact_log_p(dbn, patterns).mean().item()
    log_z = (-dbn.top(states(4))).logsumexp(0)
    bound = (dbn.variational_bound(patterns, seeded(3), draws=2000).value - log_z).mean().item()
    assert before < -2.6 and -math.log(3) > after > -1.7 and after > bound > after - 0.5


def test_an_energy_without_recognition_is_contrasted_and_no_more() -> None:
    rbm, x = cast(RBM, shaken(RBM(binary(4), n_hidden=3))), states(4)
    a = WakeSleep(steps=2).loss(rbm, Batch(x), Context(seeded(), BlockGibbs()))
    b = lowland.objectives.CD(steps=2).loss(rbm, Batch(x), Context(seeded(), BlockGibbs()))
    assert torch.equal(a.value, b.value)


@pytest.mark.parametrize(
    "settings",
    [{"steps": 0}, {"buffer_size": -1}, {"reinit_prob": 2.0}, {"buffer_size": 5, "num_chains": 9}],
)
def test_bad_settings_of_wake_and_sleep_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r";.*;"):
        WakeSleep(**settings)


# ---- greedy training and what follows ------------------------------------------------------------


def recipe(steps: int, **more: Any) -> dict[str, Any]:
    training = {
        "steps": steps,
        "batch": 100,
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "warmup": 0,
        "decay_fraction": 1.0,
        "grad_clip_norm": 0.0,
    }
    return {
        "seed": 0,
        "objective": {
            "name": "PCD",
            "steps": 1,
            "buffer_size": 200,
            "num_chains": 200,
            "reinit_prob": 0.0,
        },
        "sampler": {"name": "BlockGibbs"},
        "training": training
        | {"tail_average_fraction": 0.2, "log_every": 10, "checkpoint_every": steps},
    } | more


def test_layers_are_adopted_one_after_another_and_finished_runs_are_read(tmp_path: Any) -> None:
    data = lowland.load_data("digits", binarize="threshold")
    dbn = greedy(
        DBN(data.domain, n_hidden=(20, 12, 8)), recipe(40), tmp_path, data=data, progress=False
    )
    runs = [
        lowland.run.Run.open(tmp_path / f"layer-{k}").load_checkpoint().tensors["ema"]
        for k in (1, 2, 3)
    ]
    for layer, tensors in zip(cast(list[Directed], list(dbn.layers)), runs, strict=False):
        for weight in (layer.up_weight, layer.down_weight):
            assert torch.equal(weight, tensors["weight"])
        assert torch.equal(layer.up_bias, tensors["hidden_bias"]) and torch.equal(
            layer.down_bias, tensors["visible_bias"]
        )
    assert torch.equal(dbn.top.weight, runs[2]["weight"]) and dbn.top.weight.shape == (12, 8)
    with pytest.raises(ValueError, match=r"2 recipes came for 3 layers;.*;"):
        greedy(dbn, [recipe(40)] * 2, tmp_path, data=data, progress=False)
    marks = [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*.safetensors"))]
    again = greedy(
        DBN(data.domain, n_hidden=(20, 12, 8)), recipe(40), tmp_path, data=data, progress=False
    )
    assert all(torch.equal(a, b) for a, b in zip(dbn.parameters(), again.parameters(), strict=True))
    assert marks and marks == [
        path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*.safetensors"))
    ]


def test_the_data_of_a_layer_are_the_hidden_units_of_the_one_below() -> None:
    data = lowland.load_data("digits", binarize="threshold")
    rbm = RBM(data.domain, n_hidden=20, init_std=0.3)
    above = hidden_data(rbm, data)
    assert (
        above.domain == binary(20)
        and above.binarization == "stochastic"
        and above.binarization_note
    )
    torch.testing.assert_close(above.train.x, rbm.hidden_mean(data.train.x).detach())
    means, drawn = rbm.hidden_mean(data.test.x).detach(), above.test.x
    assert above.domain.contains(drawn).all()
    z = (drawn - means).sum() / (means * (1 - means)).sum().sqrt()
    assert abs(z.item()) < 5 and torch.equal(
        cast(Tensor, above.train.y), cast(Tensor, data.train.y)
    )


@pytest.mark.parametrize(
    "machine", [RBM(binary(20), n_hidden=9), RBM(binary(4), n_hidden=3, hidden_type="relu")]
)
def test_a_machine_that_does_not_fit_is_not_adopted(machine: RBM) -> None:
    with pytest.raises(ValueError, match=r";.*;"):
        DBN(binary(4), n_hidden=(3, 2)).adopt(0, machine)


def test_the_whole_net_trains_in_a_run_and_is_read_back(tmp_path: Any) -> None:
    data = lowland.load_data("digits", binarize="threshold")
    dbn = greedy(
        DBN(data.domain, n_hidden=(20, 12)),
        recipe(40),
        tmp_path / "greedy",
        data=data,
        progress=False,
    )
    start = dbn.layers[0].up_weight.clone()
    wake_sleep = {"name": "WakeSleep", "steps": 1, "buffer_size": 200, "num_chains": 100}
    values = recipe(40, energy={"name": "DBN", "n_hidden": [20, 12]}, objective=wake_sleep)
    values["generation"] = {"sampler": {"name": "BlockGibbs"}}
    trained = cast(
        DBN, lowland.train_recipe(values, tmp_path / "tuned", data=data, energy=dbn, progress=False)
    )
    again = lowland.load(tmp_path / "tuned").energy
    x = trained.sample_latents(data.test.x[:10], seeded())
    assert (
        isinstance(again, DBN)
        and again.data_domain == data.domain
        and torch.equal(again(x), trained(x))
    )
    assert not torch.equal(trained.layers[0].up_weight, start)
    assert not torch.equal(trained.layers[0].up_weight, trained.layers[0].down_weight)


def accuracy(network: nn.Module, data: lowland.data.Dataset, steps: int) -> float:
    """On the test part, after training by backpropagation."""
    x, y = data.train.x, cast(Tensor, data.train.y)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2, weight_decay=1e-4)
    for _ in range(steps):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(network(x), y).backward()
        optimiser.step()
    with torch.no_grad():
        return (network(data.test.x).argmax(1) == data.test.y).double().mean().item()


def test_the_classifier_is_better_than_one_on_raw_pixels(tmp_path: Any) -> None:
    data = lowland.load_data("digits", binarize="threshold")
    dbn = greedy(
        DBN(data.domain, n_hidden=(100, 100)), recipe(400), tmp_path, data=data, progress=False
    )
    network = dbn.classifier(10)
    with torch.no_grad():
        first = network[:3](data.test.x[:5])
        torch.testing.assert_close(
            first, torch.sigmoid(dbn.layers[0].up(data.test.x[:5].flatten(1)))
        )
        torch.testing.assert_close(network[:5](data.test.x[:5]), dbn.top.hidden_mean(first))
        assert torch.equal(network(data.test.x[:5]), torch.zeros(5, 10))
    raw = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    nn.init.zeros_(raw[1].weight)
    nn.init.zeros_(raw[1].bias)
    assert accuracy(network, data, 200) > accuracy(raw, data, 200)


@pytest.mark.parametrize(
    ("domain", "settings"),
    [
        (lowland.real(3), {}),
        (binary(4), {"n_hidden": ()}),
        (binary(4), {"n_hidden": (3, 0)}),
        (binary(4), {"init_std": -1.0}),
    ],
)
def test_what_makes_no_net_is_refused(domain: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r";.*;"):
        DBN(domain, **({"n_hidden": (3, 2)} | settings))

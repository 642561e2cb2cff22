"""No task waits for its device in a step, but where the next step depends on what came out."""

from collections.abc import Callable

import pytest
import torch
from simulated import count_per_step
from test_device_tasks import KNOWN, SIGMAS, classes, noise, plane, points, seeded
from torch import Tensor

from lowland import robustness, tasks
from lowland.energy import Energy
from lowland.samplers import MALA, Langevin, karras_sigmas

Run = Callable[[int], object]
LABELS = torch.tensor([0, 1, 2, 0])


def runs(d: torch.device) -> dict[str, Run]:
    """Tasks of n steps, or of n noise levels."""
    e, n, c, x = plane(d), noise(d), classes(d), points().to(d)
    attacked = tasks.as_classifier(c)

    def fall(count: int) -> tuple[float, ...]:
        return tuple(karras_sigmas(1.0, 0.1, max(count, 2)))

    def chains(prior: Energy, sigma: float) -> Run:
        mask = tasks.Mask(KNOWN)
        return lambda k: tasks.restore(
            prior, mask, x, sigma, MALA(0.1), generator=seeded(d), steps=k
        )

    def attack(make: Callable[[int], robustness.Attack]) -> Callable[[int], Tensor]:
        return lambda k: make(k)(attacked, x, LABELS.to(d), 0.1, generator=seeded(d))

    guidance = tasks.LabelGuidance(c, LABELS)
    guided = tasks.DenoisedGuidance(tasks.LabelGuidance(c, 1), n)
    return {
        "generate": lambda k: tasks.generate(
            c, MALA(0.1), x, k, generator=seeded(d), labels=LABELS
        ),
        "generate by flow": lambda k: tasks.generate_by_flow(n, fall(k), 3, generator=seeded(d)),
        "purify by chains": lambda k: tasks.purify(e, x, generator=seeded(d), steps=k),
        "purify to a mode": lambda k: tasks.purify(
            e, x, generator=seeded(d), steps=k, sigma=0.1, method="map"
        ),
        "purify by denoising": lambda k: tasks.purify(
            n, x, generator=seeded(d), steps=k, sigma=0.3, method="denoise"
        ),
        "purified classifier": lambda k: tasks.PurifiedClassifier(
            e, c, generator=seeded(d), draws=2, steps=k
        )(x),
        "restore": chains(e, 0.3),
        "restore without noise": chains(e, 0.0),
        "compose along noise": lambda k: tasks.anneal_composed(
            n + n, SIGMAS, x, k, generator=seeded(d), sampler=Langevin(0.01), final=0
        ),
        "edit": lambda k: tasks.edit(
            e, x, guidance, proximal_sigma=1.0, generator=seeded(d), sampler=MALA(0.1), steps=k
        ),
        "edit along noise": lambda k: tasks.edit(
            n, x, guided, sigmas=SIGMAS, generator=seeded(d), sampler=Langevin(0.01), steps=k
        ),
        "interpolate": lambda k: tasks.interpolate(e, x, points(seed=4), 4, steps=k),
        "answer": lambda k: tasks.conditional_sample(
            e, x, KNOWN, generator=seeded(d), sampler=MALA(0.1), steps=k
        ),
        "PGD": attack(lambda k: robustness.PGD(steps=k, early_stop=False, bounds=None)),
        "CW": attack(lambda k: robustness.CW(steps=k, bounds=None, binary_search_steps=1)),
    }


@pytest.mark.parametrize("name", list(runs(torch.device("cpu"))))
def test_a_step_of_a_task_waits_for_nothing(name: str, sim: torch.device) -> None:
    assert not count_per_step(runs(sim)[name], 3)


def test_a_step_that_depends_on_the_last_one_waits_and_is_seen(sim: torch.device) -> None:
    """Descent to a mode ends when it has converged; so do attacks that stop early."""
    e, x, mask = plane(sim), points().to(sim), tasks.Mask(KNOWN)
    waits = count_per_step(lambda k: tasks.map_estimate(e, mask, x, 0.3, start=x, steps=k), 3)
    assert {place.file for place in waits} >= {"tasks/inverse/map.py"}

"""The reference attacks of AutoAttack (extra `attacks`: pyautoattack) in the form of
`lowland.robustness`.

Source: Croce & Hein (2020), https://arxiv.org/abs/2003.01690
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowland.extras import import_extra
from lowland.robustness.threat_model import Model, Norm, check_attack, eval_frozen
from lowland.scalars import read_number


@dataclass(frozen=True)
class AutoAttack:
    """An attack for `robustness`: those of pyautoattack one after the other, each on the images
    that the others did not change the class of.

    attacks: of apgd-ce, apgd-dlr, apgd-t, fab, fab-t and square; steps: of all but square, which
    takes `queries`; norm: "inf" or "2". For images in [0, 1], four classes or more, and a model
    without noise.
    """

    attacks: Sequence[str] = ("apgd-ce", "apgd-t", "square")
    steps: int = 100
    queries: int = 5000
    norm: Norm = "inf"

    def __call__(
        self, model: Model, x: Tensor, labels: Tensor, epsilon: float, *, generator: torch.Generator
    ) -> Tensor:
        library = import_extra("pyautoattack")
        Reference: Any = library.AutoAttack
        others = check_attack(model, x, labels, epsilon) - 1
        epsilon = read_number("epsilon", epsilon, least=0)
        seed = int(torch.randint(2**31 - 1, (), generator=generator, device=generator.device))
        chosen: Any = {"attacks": list(self.attacks), "version": "custom", "seed": seed}
        with eval_frozen(model) as model, torch.random.fork_rng(devices=[]):
            reference = Reference(
                model, norm=f"L{self.norm}", eps=epsilon, device=x.device, **chosen
            )
            reference.apgd.n_restarts, reference.square.n_queries = 1, self.queries
            for attack in (reference.apgd, reference.apgd_targeted, reference.fab):
                attack.n_iter = self.steps
            for attack in (reference.apgd_targeted, reference.fab):
                attack.n_target_classes = min(9, others)
            return reference.run_standard_evaluation(x, labels, batch_size=len(x))[0].detach()

"""Adversarial attacks on classifiers, and accuracy under the worst of them.

    PGD              gradient ascent in a ball; one step is FGSM, loss = "margin" the CW loss
    CW               smallest perturbation in the Euclidean norm
    Square           random search, no gradients
    AdaptivePGD      also keeps an energy low, to pass a detector of outliers
    TransferAttack   any of them on another model, or with another backward pass (BPDA)

`robust_accuracy` runs several and takes the minimum row by row; `sanity_checks` looks for masked
gradients.
"""

from lowland.robustness.accuracy import Robustness, robust_accuracy, standard_attacks
from lowland.robustness.adaptive import AdaptivePGD
from lowland.robustness.carlini_wagner import CW
from lowland.robustness.pgd import PGD
from lowland.robustness.sanity import SanityCheck, sanity_checks
from lowland.robustness.square import Square
from lowland.robustness.threat_model import Attack, TransferAttack

__all__ = [
    "CW",
    "PGD",
    "AdaptivePGD",
    "Attack",
    "Robustness",
    "SanityCheck",
    "Square",
    "TransferAttack",
    "robust_accuracy",
    "sanity_checks",
    "standard_attacks",
]

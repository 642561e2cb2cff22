"""The two parts of `benchmarks.quality.ood` that are no board: detection on tables, and promises
over many
calibration splits.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowland import Detector, load, load_data
from lowland.metrics import alarm_ranks, auroc, p_values

# ---- tables --------------------------------------------------------------------------------------


def tables() -> dict[str, Any]:
    """One-class detection on tables: trained on half of the normal rows, tested on the other half
    and on all others.
    """
    from sklearn import datasets

    wine, cancer, digits = (
        datasets.load_wine(),
        datasets.load_breast_cancer(),
        datasets.load_digits(),
    )
    cases = {
        "breast cancer: malignant out": (cancer.data, cancer.target == 1),
        "wine: class 0 out": (wine.data, wine.target != 0),
        "digits: nines out": (digits.data, digits.target != 9),
    }
    found: dict[str, Any] = {}
    for name, (x, normal) in cases.items():
        for contender, make in contenders().items():
            scores = [one_split(make, x.astype(np.float64), normal, seed) for seed in range(5)]
            found.setdefault(name, {})[contender] = scores
            print(name, contender, [round(100 * s, 1) for s in scores], flush=True)
    return found


def contenders() -> dict[str, Callable[[int], Any]]:
    """Outlier score functions, high is an outlier, by name: seed -> (train -> scores)."""
    from sklearn.ensemble import IsolationForest
    from sklearn.neighbors import LocalOutlierFactor

    from lowland.interop.sklearn import EnergyDetector

    def forest(seed: int) -> Any:
        return IsolationForest(n_estimators=300, random_state=seed)

    def factor(seed: int) -> Any:
        return LocalOutlierFactor(n_neighbors=20, novelty=True)

    def energy(seed: int) -> Any:
        return EnergyDetector(contamination=0.1, random_state=seed)

    def narrow(seed: int) -> Any:
        return EnergyDetector(
            contamination=0.1, random_state=seed, objective={"name": "DSM", "sigmas": (1.0,)}
        )

    made: dict[str, Callable[[int], Any]] = {
        "EnergyDetector": energy,
        "EnergyDetector, noise 1": narrow,
        "IsolationForest": forest,
        "LOF": factor,
    }
    try:
        from pyod.models.ecod import ECOD
    except ImportError:
        print("pyod is not installed; ECOD is left out", flush=True)
        return made
    return made | {"ECOD": lambda seed: ECOD()}


def one_split(make: Callable[[int], Any], x: Any, normal: Any, seed: int) -> float:
    """AUROC of one split; columns are standardized by the training half.

    ECOD of PyOD ranks rows together with those they come with, so that many outliers look normal;
    it gets each row by itself.
    """
    from sklearn.preprocessing import StandardScaler

    order = np.random.RandomState(seed).permutation(np.flatnonzero(normal))
    half = len(order) // 2
    scale = StandardScaler().fit(x[order[:half]])
    model = make(seed).fit(scale.transform(x[order[:half]]))
    alone = type(model).__name__ == "ECOD"

    def scores(part: Any) -> Tensor:
        rows = scale.transform(part)
        if alone:
            return torch.from_numpy(
                np.concatenate([model.decision_function(row[None]) for row in rows])
            )
        return torch.from_numpy(-model.decision_function(rows))

    return auroc(scores(x[order[half:]]), scores(x[~normal])).value


# ---- promises ------------------------------------------------------------------------------------


def rates(scores: Tensor, count: int, ranks: int, splits: int = 200) -> Tensor:
    """The false-alarm rate of a detector that calls r ranks of n on all other points, over random
    calibration splits.
    """
    g, found = torch.Generator().manual_seed(0), []
    for _ in range(splits):
        order = torch.randperm(len(scores), generator=g)
        p = p_values(scores[order[:count]], scores[order[count:]])
        found.append((p * (count + 1) < ranks + 0.5).double().mean())
    return torch.stack(found)


def promises() -> list[dict[str, Any]]:
    """200 random calibration splits of real energies: means for "marginal", shares beyond α for
    "training-conditional", planted bugs.
    """
    data = load_data("fashion-mnist")
    energy = load("runs/quality-fashion-mnist-pcd-0").energy
    pool = torch.cat([data.calibration.x, data.test.x])
    exact = Detector(energy).score(pool).double()
    coarse = (100 * (exact - exact.min()) / (exact.max() - exact.min())).round()
    found: list[dict[str, Any]] = []
    for alpha, count in ((0.01, 200), (0.05, 100), (0.1, 50)):
        for kind, scores in (("PCD energies", exact), ("the same, of 100 values (ties)", coarse)):
            for label, ranks in (
                ("⌊α(n+1)⌋", alarm_ranks(count, alpha)),
                ("planted: no + 1", int(alpha * count + 1e-9) + 1),
            ):
                r = rates(scores, count, ranks)
                excess = float((r.mean() - alpha) / (r.std() / len(r) ** 0.5))
                row = {
                    "promise": "marginal",
                    "alpha": alpha,
                    "n": count,
                    "scores": kind,
                    "ranks": label,
                }
                found.append(row | {"mean": float(r.mean()), "z": excess, "kept": excess < 5})
    delta = 0.1
    for alpha, count in ((0.01, 500), (0.05, 500), (0.1, 500)):
        for label, ranks in (
            ("Beta quantile", alarm_ranks(count, alpha, "training-conditional", delta)),
            ("planted: ⌊α(n+1)⌋", alarm_ranks(count, alpha)),
        ):
            r = rates(exact, count, ranks)
            share = float((r > alpha).double().mean())
            z = (share - delta) / (delta * (1 - delta) / len(r)) ** 0.5
            row = {
                "promise": f"conditional, δ = {delta}",
                "alpha": alpha,
                "n": count,
                "scores": "PCD energies",
                "ranks": label,
            }
            found.append(row | {"mean": float(r.mean()), "beyond": share, "z": z, "kept": z < 5})
    return found

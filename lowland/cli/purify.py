"""Commands that purify images, and that attack classifiers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional


@dataclass
class Purify:
    """Carry images that were tampered with to where data lie; writes a picture (as they came,
    purified) or numbers.
    """

    run: Positional[Path]
    """Run directory, or the name of a shipped run."""
    images: Positional[list[Path]]
    """PNG, JPEG, .npy or .npz files."""
    method: Literal["langevin", "map", "denoise"] | None = None
    """How; the run's own way unless given."""
    steps: int | None = None
    """Steps, or noise levels of denoise."""
    sigma: float | None = None
    """Noise added first, or the width of the pull of map."""
    seed: int = 0
    """Seed of the noise."""
    out: Path | None = None
    """File to write, .png or .npy; beside the first image unless given."""

    def main(self) -> None:
        from lowland import verbs

        options = {key: getattr(self, key) for key in ("method", "steps", "sigma", "seed", "out")}
        print(verbs.purify(self.run, self.images, **options))


@dataclass
class Attack:
    """Attack the classifier of a run: accuracy under each attack, under the worst of them, and
    sanity checks.
    """

    run: Positional[Path]
    """Run directory, or the name of a shipped run; its energy knows classes."""
    epsilon: float = 0.3
    """Size of the perturbation."""
    count: int = 200
    """Test images, the first ones."""
    attacks: Annotated[str, tyro.conf.arg(metavar="A,B")] = ""
    """Names with commas between them; all unless given."""
    norm: Literal["inf", "2"] = "inf"
    """In which epsilon is measured."""
    steps: int = 40
    """Steps of each attack that climbs; half as many where a purifier draws noise."""
    purify: Path | None = None
    """Run that purifies what the classifier sees; attacks then know of it."""
    out: Path | None = None
    """JSON to write."""
    seed: int = 0
    """Seed of the attacks."""
    quiet: bool = False
    """No progress bar."""

    def main(self) -> None:
        from lowland import verbs

        options = {
            key: getattr(self, key) for key in ("epsilon", "count", "norm", "steps", "out", "seed")
        }
        names = [name.strip() for name in self.attacks.split(",") if name.strip()]
        found, checks = verbs.attack(
            self.run, attacks=names, behind=self.purify, progress=not self.quiet, **options
        )
        print(found)
        print("\n".join(map(str, checks)))

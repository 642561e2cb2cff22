"""Sections of a recipe that no registered class describes: data, generation, restoration,
purification and evaluation.
"""

from collections.abc import Callable
from importlib import import_module
from inspect import signature
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

STRICT = ConfigDict(extra="forbid", protected_namespaces=(), strict=True, allow_inf_nan=False)
GENERATE = "lowland.tasks.generate:generate"
RESTORE = "lowland.tasks.inverse.restore:restore"
SPLIT_GIBBS = "lowland.tasks.inverse.split_gibbs:split_gibbs_sample"
PURIFY = "lowland.tasks.purify:purify"
DETECTOR = "lowland.tasks.detection.detector:Detector.predict"
CLASSIFIER = "lowland.training.classifier:train_classifier"
DENOISE_SIGMA = (
    "noise level σ of a last step x + σ² score(x), for an energy of data with that much noise "
    "added; 0 for none"
)


Count = Annotated[int, Field(le=1_000_000_000)]
Steps = Annotated[int, Field(le=10_000_000)]  # of chains, or of a network
Few = Annotated[int, Field(le=100_000)]  # points that are compared with each other
Levels = Annotated[int, Field(le=10_000)]
Real = Annotated[float, Field(le=1e18)]  # float32 holds its square


class ConfigError(ValueError):
    """Error of a recipe with mistakes, all of which the message lists."""


def default_of(function: str, parameter: str) -> Callable[[], Any]:
    """Return a function that reads a parameter's default from the signature of a function, named as
    "module:name", when it is first needed.
    """

    def read() -> object:
        module, _, path = function.partition(":")
        found: Any = import_module(module)
        for name in path.split("."):
            found = vars(found)[name]
        default = signature(found).parameters[parameter].default
        if isinstance(default, tuple):
            return list(default)
        return default

    return read


class Data(BaseModel):
    """Settings of the data: a named set, or a folder of images, an .npy, .npz or .csv file."""

    model_config = STRICT
    name: str
    root: str | None = Field(
        None, description="where to look first; else LOWLAND_DATA, the cache, a download"
    )
    limit: Count | None = Field(None, ge=16, description="train on so many examples only")
    count: Count | None = Field(None, ge=64, description="points of a density in the plane")
    size: int | None = Field(
        None, ge=2, le=8192, description="side to which images of a folder are resized"
    )
    channels: Literal[1, 3] | None = Field(None, description="colours of a folder's images")
    skip_bad: bool | None = Field(
        None, description="leave out files of a folder that cannot be read, and list them"
    )
    label: str | None = Field(None, description="label column of a table")
    header: bool | None = Field(
        None, description="whether the first line of a table holds names; else it is decided by it"
    )
    kind: Literal["real", "binary", "categorical", "image"] | None = Field(
        None, description="what an array or a table is read as, where its content allows more"
    )
    seed: int | None = Field(
        None,
        ge=0,
        le=2**63 - 1,
        description="of the division and of a fixed draw; the seed of the run if left out",
    )
    binarize: Literal["threshold", "stochastic", "fixed"] | None = Field(
        None, description="make grey images binary: 1 above 0.5; drawn anew each time; drawn once"
    )
    standardize: bool | None = Field(
        None, description="tables and arrays: subtract the mean, divide by the deviation"
    )


class Drawing(BaseModel):
    """Settings that samples and restorations share: chains, or a way down the noise levels of an
    energy E(x, σ).
    """

    model_config = STRICT
    method: str = "chains"
    sampler: BaseModel | None = None
    temperatures: list[Annotated[Real, Field(gt=0)]] = Field(
        min_length=1,
        max_length=10_000,
        default_factory=default_of(GENERATE, "temperatures"),
        description="a path: the steps are divided among energy / T for each T",
    )
    denoise_sigma: Real = Field(
        ge=0, default_factory=default_of(GENERATE, "denoise_sigma"), description=DENOISE_SIGMA
    )
    num_levels: Levels = Field(
        18, ge=2, description="noise levels of an energy E(x, σ) whose objective does not name them"
    )
    sigma_max: Real = Field(
        20.0, gt=0, description="the first of them, far above the size of the data"
    )
    sigma_min: Real = Field(0.01, gt=0, description="the last")
    precision: Literal["float32", "bfloat16", "auto"] = Field(
        default_factory=default_of(SPLIT_GIBBS, "precision"),
        description="of the matrix products on the way down; auto measures which is faster",
    )

    @model_validator(mode="after")
    def _check_method(self) -> "Drawing":
        name = type(self).__name__.lower()
        if self.method in ("chains", "recovery") and self.sampler is None:
            other = "flow" if name == "generation" else "split-gibbs"
            raise ValueError(
                f"chains were chosen and no sampler; a [{name}.sampler] is needed; add one, or "
                f"method = '{other}'"
            )
        if self.method in ("chains", "recovery") and self.precision == "bfloat16":
            raise ValueError(
                f"precision is {self.precision!r} for chains; only a way down the levels takes "
                "one; omit it"
            )
        if self.sigma_max <= self.sigma_min:
            raise ValueError(
                f"levels fall from {self.sigma_max} to {self.sigma_min}; the first must be higher; "
                "exchange them"
            )
        return self


class Generation(Drawing):
    """Settings of the samples that are made from the trained energy."""

    method: Literal["chains", "flow", "recovery"] = Field(
        "chains", description="or down the levels: by flow, or draw by draw"
    )
    steps: Steps = Field(500, ge=0)
    start: Literal["noise", "chains", "partner"] = Field(
        "noise",
        description="fresh noise; where the training chains got to; or what the generator trained "
        "beside makes",
    )


class Restoration(Drawing):
    """Settings of posterior draws: those of samples, and the noise of measurement."""

    method: Literal["chains", "split-gibbs"] = Field(
        "chains", description="Markov chains; or split Gibbs sampling down the noise levels"
    )
    steps: Steps = Field(ge=1, default_factory=default_of(RESTORE, "steps"))
    draws: Few = Field(8, ge=1)
    sigma: Real = Field(0.1, gt=0, description="noise of the measurement, in units of the data")
    count: Few = Field(100, ge=0, description="test images restored by evaluate; 0 for none")
    prior_samples: Few = Field(
        0, ge=0, description="draws of the prior from which chains start; 0 starts them at noise"
    )
    num_levels: Levels = Field(
        ge=1,
        default_factory=default_of(SPLIT_GIBBS, "num_levels"),
        description="passes on the way down; means lag behind like 1 / num_levels",
    )
    denoise_steps: Levels = Field(
        ge=1,
        default_factory=default_of(SPLIT_GIBBS, "denoise_steps"),
        description="noise levels inside a pass; draws are narrow like 1 / denoise_steps",
    )
    sigma_max: Real = Field(
        3.0, gt=0, description="where the way down begins, a few times the spread of the data"
    )
    sigma_min: Real = Field(0.02, gt=0, description="noise too small to matter")


class Purification(BaseModel):
    """Settings of `lowland.tasks.purify`."""

    model_config = STRICT
    method: Literal["langevin", "map", "denoise"] = Field(
        default_factory=default_of(PURIFY, "method")
    )
    steps: Steps = Field(
        ge=1,
        default_factory=default_of(PURIFY, "steps"),
        description="of Langevin or descent; noise levels of denoise, 1 for a single step",
    )
    sigma: Real = Field(
        ge=0,
        default_factory=default_of(PURIFY, "sigma"),
        description="noise added first; the width of the pull to the start for map",
    )
    step_size: Real = Field(gt=0, default_factory=default_of(PURIFY, "step_size"))
    temperature: Real = Field(ge=0, default_factory=default_of(PURIFY, "temperature"))
    clip: Real | None = Field(
        gt=0,
        default_factory=default_of(PURIFY, "clip"),
        description="bound on every number of the energy's gradient",
    )

    @model_validator(mode="after")
    def _check_sigma(self) -> "Purification":
        if self.method != "langevin" and not self.sigma:
            raise ValueError(
                f"method is {self.method!r} and sigma 0; it needs a sigma above 0; 0.3 suits "
                "pixels in [0, 1]"
            )
        return self


class Evaluation(BaseModel):
    """Settings of evaluate."""

    model_config = STRICT
    samples: Few = Field(500, ge=16)
    alpha: Real = Field(
        gt=0,
        lt=1,
        default_factory=default_of(DETECTOR, "alpha"),
        description="false-alarm rate of the detector",
    )
    outlier_score: str = Field(
        "energy", description="of the detector: energy, typicality, multiscale, msp, ..."
    )
    outliers: list[str] = Field(
        [],
        max_length=100,
        description="data sets to tell apart, besides noise and a shifted test set",
    )
    classifier_steps: Steps = Field(
        ge=0,
        default_factory=default_of(CLASSIFIER, "steps"),
        description="updates of the classifier that judges labelled images; 0 for none",
    )

    @field_validator("outlier_score")
    @classmethod
    def _check_outlier_score(cls, score: str) -> str:
        from lowland.tasks.detection.registry import get_outlier_score

        get_outlier_score(score)
        return score


def list_defaults() -> dict[str, dict[str, Any]]:
    """Return the defaults of the sections [generation] and [evaluation] as plain values.

    >>> list_defaults()["evaluation"]["alpha"]
    0.05
    """
    sections: dict[str, type[BaseModel]] = {"generation": Generation, "evaluation": Evaluation}
    return {
        name: {
            key: field.get_default(call_default_factory=True)
            for key, field in section.model_fields.items()
        }
        for name, section in sections.items()
    }

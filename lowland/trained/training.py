"""Train a network of the user's on the user's data: the road from Python to a run."""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter
from tqdm.auto import tqdm

from lowland.data import Dataset, make_dataset
from lowland.domain import Domain
from lowland.energy import Energy, Function, count_classes, lift, noise_of
from lowland.objectives import PCD, MultilevelDSM, Objective, Term
from lowland.registry import Plain, registered, spec, suggest
from lowland.run import Run
from lowland.samplers import Sampler
from lowland.samplers.kernel import DISCRETE
from lowland.trained.model import Model, load
from lowland.trained.ways import choose_sections
from lowland.training import Training
from lowland.training.callbacks import Callback, check_callbacks
from lowland.training.distributed import launched_team
from lowland.training.identity import describe_energy
from lowland.training.kept_data import describe_kept
from lowland.training.loop import train_run

BOX_NOISE = 0.2  # on data in a box, in units of its width
_folders: list[tempfile.TemporaryDirectory[str]] = []  # of runs without a name, until the end


@torch.inference_mode(False)  # training keeps gradients, wherever it is called from
@torch.enable_grad()
def fit(
    energy: Energy | nn.Module,
    data: object,
    objective: Objective | None = None,
    *,
    sampler: Sampler | None = None,
    steps: int = Training.steps,
    batch_size: int | None = None,
    optimizer: str = Training.optimizer,
    learning_rate: float = Training.learning_rate,
    terms: Sequence[Term] = (),
    labels: object = None,
    inputs: str | Sequence[str] | None = None,
    validation: object = 0.3,
    standardize: bool | None = None,
    run: str | Path | None = None,
    device: str | torch.device = Training.device,
    seed: int = 0,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
    allow_changes: bool = False,
    **training: Any,
) -> Model:
    """Train a network on data, in a run that resumes, and return it as a Model.

    *What.* energy: any nn.Module (B, *event) → (B,), an Energy, or a net of `lowland.nets`; the
    domain of a bare module is found from the data, and said. data: a tensor, an array, a DataFrame,
    (x, y), a name or path, a torch Dataset or DataLoader, an iterable of batches, a Hugging Face
    dataset; see `lowland.data.make_dataset` for scales and splits. objective: of
    `lowland.objectives`; PCD unless given (with noise on data in a box), MultilevelDSM for an
    energy E(x, σ). sampler: of the chains, for objectives that run some; MALA with a step for the
    spread of the data unless given, Langevin in a box.
    terms: added to the loss.

    *Data.* labels: (N,), or the name of a column; inputs: names of the columns to read; validation:
    share held out, or those examples: half of them set thresholds, half are for tests; standardize:
    columns, as DataFrames are unless it is False. Bytes of images are divided by 255.

    *Updates.* steps: how many; batch_size: 64 unless given or there are fewer examples; optimizer:
    "adam" or "sgd"; training: any other setting of `lowland.training.Training` by its name, such as
    weight_decay, betas, grad_clip_norm, ema_decay, precision, checkpoint_every, select_by, threads.

    *Run.* run: a directory. The same call again goes on where it was stopped, bit for bit, and
    returns the model of a run that is finished; another call is refused, in words, unless
    allow_changes. Without a directory, all is kept in a temporary one until the process ends.
    callbacks: functions of a `lowland.training.Event`, after every update, row of the log, verdict
    and checkpoint; one that returns or raises `lowland.training.StopTraining` ends the training
    after a checkpoint. device: "auto", "cpu", "cuda", ...

    Raises ValueError for what cannot be trained, RunError if the directory refuses,
    TrainingStoppedError if health stops the run.

    >>> import lowland, torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.SiLU(), torch.nn.Linear(16, 1))
    >>> net.append(torch.nn.Flatten(0))
    Sequential(...)
    >>> model = lowland.fit(net, torch.randn(200, 2), steps=20, progress=False)
    >>> model.energies(torch.zeros(3, 2)).shape
    torch.Size([3])
    """
    objective = _check_objective(objective)
    sampler = _check_instance("sampler", sampler, Sampler, "lowland.MALA(0.01)")
    given = _check_energy(energy)
    discrete = None if sampler is None else set(sampler.domains) <= set(DISCRETE)
    held = make_dataset(
        data,
        given.domain,
        labels=labels,
        inputs=inputs,
        validation=validation,
        standardize=standardize,
        discrete=discrete,
        seed=seed,
    )
    own = _set_domain(given, held.domain)
    if objective is None:
        objective = _choose_objective(own, held)
        training = _choose_noise(own.domain, objective) | training
    sampler = sampler or objective.initial_sampler(own, held.train.x)
    settings = _read_settings(
        training,
        steps=steps,
        batch=_choose_batch(batch_size, held),
        optimizer=optimizer,
        learning_rate=learning_rate,
        device=str(device),
    )
    recipe = {
        "name": describe_energy(own)["name"].rpartition(":")[2].rpartition(".")[2],
        "about": "",
        "seed": seed,
        "data": _describe_data(data, held),
        "energy": describe_energy(own),
        "objective": spec(objective),
        "terms": [spec(term) for term in terms],
        "sampler": None if sampler is None else spec(sampler),
        "training": _to_plain(asdict(settings)),
        **choose_sections(own, held, objective, sampler, settings.data_noise_std),
    }
    path = _choose_folder(run)
    if progress and launched_team().is_main and not Run(path).steps() and held.note:
        tqdm.write(f"data: {held.note}", file=sys.stderr)
    finished = settings.steps in Run(path).steps()
    trained = train_run(
        recipe,
        path,
        data=held,
        energy=own,
        progress=progress,
        allow_changes=allow_changes,
        callbacks=check_callbacks(callbacks),
    )
    if finished:
        warnings.warn(
            f"{path} is finished, with {settings.steps:,} of {settings.steps:,} updates: its model "
            "is returned; raise steps= to go on, or name another run= to train anew",
            stacklevel=2,
        )
    return load(path, energy=trained, data=held, device=device)


def _check_instance(what: str, value: Any, kind: type, example: str) -> Any:
    """Return an object of a kind, or None. Raises ValueError for anything else."""
    if value is None or isinstance(value, kind):
        name = type(value).__name__
        known = registered(kind.__name__.lower())
        if value is None or known.get(name) is type(value):
            return value
        raise ValueError(
            f"the {what} is a {name}, which is not registered; a run must know it by its name; put "
            f"@lowland.registry.register({kind.__name__.lower()!r}) over the class"
        )
    raise ValueError(
        f"the {what} is {value!r:.60}; an instance of a {kind.__name__} is needed; pass for "
        f"example {example}"
    )


def _check_objective(objective: Objective | None) -> Objective | None:
    found: Objective | None = _check_instance(
        "objective", objective, Objective, "lowland.objectives.PCD(steps=20)"
    )
    return found


def _check_energy(energy: Energy | nn.Module) -> Energy:
    """Return a network as an energy. Raises ValueError for what has no weights to train."""
    if isinstance(energy, type) or not isinstance(energy, nn.Module):
        raise ValueError(
            f"the energy is {energy!r:.60}; a network with weights is trained, a torch.nn.Module "
            "(B, *event) -> (B,); pass an instance, such as MyCNN()"
        )
    if not any(weight.requires_grad for weight in energy.parameters()):
        raise ValueError(
            f"the energy is a {type(energy).__name__} without weights that learn; training changes "
            "weights; pass a network with parameters, or sample this energy with lowland.sample"
        )
    if any(isinstance(weight, UninitializedParameter) for weight in energy.parameters()):
        raise ValueError(
            f"the energy is a {type(energy).__name__} with lazy layers, whose sizes are not known "
            "yet; weights must be there before training; call it once on a batch"
        )
    dtypes = {weight.dtype for weight in energy.parameters() if weight.is_floating_point()}
    if dtypes != {torch.float32}:
        found = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        raise ValueError(
            f"the energy is a {type(energy).__name__} with weights in {found}; data are trained on "
            "in float32, whatever they came in; call .float() on the network"
        )
    return lift(energy)


def _set_domain(energy: Energy, domain: Domain) -> Energy:
    """Return an energy on the domain of its data, where its own leaves the shape open."""
    if energy.domain.shape:
        return energy
    if type(energy) is Function:
        return Function(energy.function, domain)
    energy.domain = domain
    return energy


def _choose_objective(energy: Energy, data: Dataset) -> Objective:
    """Return the objective for those who name none."""
    if noise_of(energy) is not None and not count_classes(energy):
        spread = float(data.train.x[:10_000].double().std(correction=0))
        return MultilevelDSM(sigma_data=float(f"{spread:.2g}") or 1.0)
    if energy.domain.kind == "box":
        return PCD(steps=10, l2=0.001, buffer_size=1024, reinit_prob=0.02)
    return PCD(l2=0.001)


def _choose_noise(domain: Domain, objective: Objective) -> dict[str, Any]:
    """Return the noise on data in a box, whose numbers often sit on the walls and repeat: without
    width they have no energy.
    """
    if domain.kind != "box" or not isinstance(objective, PCD):
        return {}
    return {"data_noise_std": BOX_NOISE * (domain.hi - domain.lo)}


def _choose_batch(wanted: int | None, data: Dataset) -> int:
    """Return the size of a batch of different training examples."""
    count = len(data.train)
    if wanted is None:
        return min(Training.batch, count)
    if isinstance(wanted, int) and wanted > count:
        raise ValueError(
            f"batch_size is {wanted} and {data.name} has {count} training examples; a batch is "
            f"made of different ones; pass batch_size={count} or less, or bring more data"
        )
    return wanted


def _read_settings(training: Mapping[str, Any], **named: Any) -> Training:
    """Return the settings of training. Raises ValueError for names that are none of them."""
    known = [field.name for field in fields(Training) if field.name not in (*named, "tensorboard")]
    for name in training:
        if name == "progressive_sizes":
            raise ValueError(
                "progressive_sizes came; it builds a network for each size of images, and one was "
                "passed; leave it out, or train a recipe"
            )
        if name not in [*known, "tensorboard"]:
            hint = {"lr": "learning_rate", "epochs": "steps", "batch": "batch_size"}.get(name)
            advice = suggest(name, [*known, "batch_size", "steps"], "see help(lowland.fit)")
            raise TypeError(
                f"fit was given {name}; beside its own arguments it takes {', '.join(known)}; "
                f"{f'did you mean {hint!r}?' if hint else advice}"
            )
    return Training(**{**training, **named})


def _describe_data(data: object, held: Dataset) -> Plain:
    """Return the section [data]: a name or path, or what is kept of data from memory."""
    if isinstance(data, str | Path):
        return {"name": str(data)}
    return describe_kept(held)


def _to_plain(values: Mapping[str, Any]) -> Plain:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def _choose_folder(run: str | Path | None) -> Path:
    """Return the directory of a run, a temporary one where none is named."""
    if run is not None:
        return Path(run)
    if launched_team().size > 1:
        raise ValueError(
            "several processes train together and no run was named; they share one directory; pass "
            "run='runs/mine'"
        )
    _folders.append(tempfile.TemporaryDirectory(prefix="lowland-"))
    return Path(_folders[-1].name) / "run"

"""Build the parts of a training session from a recipe and data, and check that they fit
together."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from lowland.data import Dataset, Split, bernoulli_sample
from lowland.domain import Domain
from lowland.energy import Energy, check_energy, count_classes, learner_of, noise_of
from lowland.energy.sizes import build_in_float32
from lowland.objectives.contrastive import impute
from lowland.objectives.labels import hide_labels
from lowland.objectives.loss import Objective
from lowland.registry import build
from lowland.replay import ReplayBuffer
from lowland.samplers.kernel import Sampler
from lowland.samplers.precision import PrecisionChoice, check_precision, resolve_precision
from lowland.training.distributed import Team
from lowland.training.settings import Plain, Training
from lowland.training.threads import cpu_threads

PARTNER_ROWS = 10_000  # examples to which an objective's partner is fitted


def build_objective(values: Plain, settings: Training, team: Team) -> Objective:
    """Build the objective with this process's share of the chains.

    Raises ValueError for what cannot be divided among the processes.
    """
    team.per_rank("training.batch / training.accumulate", settings.batch // settings.accumulate)
    if team.size > 1 and (settings.sharding, settings.optimizer) == ("fsdp", "sgd"):
        raise ValueError(
            "training.sharding is 'fsdp' and the optimizer 'sgd'; FSDP2 divides the moments of "
            "Adam; set training.optimizer = 'adam', or sharding = 'ddp'"
        )
    objective: Objective = build("objective", values)
    if objective.num_chains:
        chains = team.per_rank("objective.num_chains", objective.num_chains)
        objective = objective.with_num_chains(chains)
    return objective


def choose_precision(
    settings: Training, energy: Energy, sampler: Sampler | None, device: torch.device
) -> PrecisionChoice:
    """Choose the precision of an update: for "auto" that in which gradients of a batch are clearly
    faster, float32 with a sampler whose accept steps compare energies.
    """
    check_precision(settings.precision)
    if settings.precision == "auto" and sampler is not None and sampler.adjusted:
        return PrecisionChoice("float32", "chains have an accept step")
    x = energy.domain.draw(1, torch.Generator(device).manual_seed(0))
    if noise_of(energy):
        energy = energy.given(1.0)
    elif count_classes(energy):
        energy = energy.given(0)
    rows = settings.batch // settings.accumulate
    with cpu_threads(settings.threads):
        return resolve_precision(settings.precision, energy, x, rows=rows, matrices=True)


def build_energy(values: Plain, settings: Training, data: Dataset, seed: int) -> Energy:
    """Build the energy for the data's domain, and initialise it from the training part."""
    with torch.random.fork_rng(devices=[]), build_in_float32():
        torch.default_generator.manual_seed(seed)  # a GPU keeps its own draws
        domain = data.domain.widen(settings.box_margin)
        made: Energy = build("energy", {**values, "domain": domain})
    init = learner_of(made).init_from_data
    if init is not None:
        init(data.train.x)
    return made


def build_partner(
    objective: Objective,
    energy: Energy,
    data: Dataset,
    settings: Training,
    device: torch.device,
    seed: int,
) -> nn.Module | None:
    """Build what an objective trains beside the energy, if anything."""
    generator = torch.Generator(device).manual_seed(seed)
    x = data.train.x[:PARTNER_ROWS].to(device)
    x = perturb_examples(x, data, settings, energy.domain, generator)
    with torch.random.fork_rng(devices=[]), build_in_float32():
        torch.default_generator.manual_seed(seed)  # a GPU keeps its own draws
        partner = objective.make_partner(energy, x)
    if partner is not None:
        partner.to(device)
    return partner


def build_buffer(
    objective: Objective,
    energy: Energy,
    sampler: Sampler | None,
    settings: Training,
    team: Team,
    generator: torch.Generator,
    classes: int,
) -> ReplayBuffer | None:
    """Build the replay buffer with this process's share of the chains, for an objective that keeps
    some.

    With tempering a chain is one point per temperature.
    """
    if not objective.persistent:
        return None
    moving = objective.num_chains * team.size or settings.batch
    rows = team.shard(max(objective.buffer_size, moving))
    domain = energy.domain
    if sampler is not None and sampler.num_replicas > 1:
        domain = replace(domain, shape=(sampler.num_replicas, *domain.shape))
    return ReplayBuffer(
        rows.stop - rows.start,
        domain,
        generator=generator,
        classes=classes,
        reinit_prob=objective.reinit_prob,
        dtype=next(energy.parameters()).dtype,
    )


def select_labels(part: Split, share: float, seed: int) -> Split:
    """Return the training part with all labels hidden but a share of them."""
    if share == 1.0 or part.y is None:
        return part
    return Split(part.x, hide_labels(part.y, share, seed))


def perturb_examples(
    x: Tensor, data: Dataset, settings: Training, domain: Domain, generator: torch.Generator
) -> Tensor:
    """Return examples binarized, dequantised and noised as data and settings say, folded back into
    the box.
    """
    if data.binarization == "stochastic":
        x = bernoulli_sample(x, generator)
    if settings.dequantise and data.num_gray_levels:
        u = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        x = (x * (data.num_gray_levels - 1) + u) / data.num_gray_levels
    if settings.data_noise_std:
        noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        x, _ = domain.reflect(x + settings.data_noise_std * noise)
    return x


def check_data(
    energy: Energy,
    data: Dataset,
    settings: Training,
    device: torch.device,
    objective: Plain | None = None,
) -> None:
    """Raise ValueError for data or settings on which the energy cannot be trained.

    objective: plain values, whose settings about labels belong to the cure of data without.
    """
    classes = count_classes(energy)
    moved = {
        "data_noise_std": settings.data_noise_std,
        "dequantise": settings.dequantise,
        "box_margin": settings.box_margin,
    }
    spread = [name for name, value in moved.items() if value]
    if data.binarization and spread:
        raise ValueError(
            f"{data.name} is binary and {' and '.join(spread)} would move it off 0 and 1; "
            "binary data have no grey levels to spread; leave them out"
        )
    if classes and data.train.y is None:
        cure = ["energy.classes = 0"]
        if objective and objective.get("sample_labels"):
            cure.append("objective.sample_labels = false")
        if objective and objective.get("ce_weight"):
            cure.append("objective.ce_weight = 0")
        raise ValueError(
            f"the energy has {classes} classes and {data.name} no labels; classes are learned from "
            f"labels; set {' and '.join(cure)}, or bring labelled data"
        )
    if classes and classes != data.classes:
        raise ValueError(
            f"the energy has {classes} classes and {data.name} {data.classes}; they must agree; "
            f"set energy.classes = {data.classes}, or 0 to train without labels"
        )
    x = data.train.x[:4].to(device)
    if data.binarization:
        x = x.round()
    x = impute(energy, x, torch.Generator(device).manual_seed(0))
    if energy.domain.kind == "binary":
        x = x.round()  # imputed units may be means
    noise_level = None
    if noise_of(energy) is not None:
        noise_level = torch.full((len(x),), 0.1, device=device, dtype=x.dtype)
    check_energy(energy, x, noise_level)

"""Every sampler of lowland, in the forms that differ: metric, jitter, sweeps, tempering."""

from lowland.samplers import (
    DMALA,
    GHMC,
    HMC,
    MALA,
    NUTS,
    BlockGibbs,
    GibbsWithGradients,
    Langevin,
    LeimkuhlerMatthews,
    ParallelTempering,
    Sampler,
    ShortRun,
    Underdamped,
)

METRIC = (1.0, 0.8, 1.25)  # repeated to the size of an event; one dimension is left as it is
TEMPERATURES = (1.0, 1.7, 3.0)


def all_samplers() -> dict[str, Sampler]:
    """Return samplers by name; a form of a sampler is named after it and what differs.

    Step sizes of biased samplers are the largest of those at which their order is measured.
    """
    plain: list[Sampler] = [
        Langevin(0.15),
        LeimkuhlerMatthews(0.42),
        Underdamped(0.7),
        ShortRun(0.1, 0.3),
        MALA(0.2),
        HMC(0.4, 4),
        NUTS(0.5, 4),
        GHMC(0.4),
        BlockGibbs(),
        GibbsWithGradients(),
        DMALA(0.5),
    ]
    forms: dict[str, Sampler] = {type(sampler).__name__: sampler for sampler in plain}
    return forms | {
        "Langevin, scale": Langevin(0.15, inv_mass_sqrt=METRIC),
        "LeimkuhlerMatthews, scale": LeimkuhlerMatthews(0.42, inv_mass_sqrt=METRIC),
        "Underdamped, scale": Underdamped(0.7, inv_mass_sqrt=METRIC),
        "MALA, scale": MALA(0.2, inv_mass_sqrt=METRIC),
        "HMC, scale and jitter": HMC(0.4, 3, inv_mass_sqrt=METRIC, jitter=0.3),
        "NUTS, scale": NUTS(0.5, 4, inv_mass_sqrt=METRIC),
        "GHMC, scale and 3 leapfrogs": GHMC(0.4, 0.5, 3, METRIC),
        "BlockGibbs, 2 sweeps": BlockGibbs(2),
        "Tempering of MALA": ParallelTempering(MALA(0.2), TEMPERATURES, (0.2, 0.35, 0.6)),
        "Tempering of HMC": ParallelTempering(HMC(0.4, 3, inv_mass_sqrt=METRIC), TEMPERATURES),
        "Tempering of NUTS": ParallelTempering(NUTS(0.5, 3), TEMPERATURES, (0.5, 0.65, 0.8)),
        "Tempering of GHMC": ParallelTempering(GHMC(0.4), TEMPERATURES, (0.4, 0.5, 0.6)),
        "Tempering of DMALA": ParallelTempering(DMALA(0.5), TEMPERATURES, (0.5, 0.8, 1.2)),
        "Tempering of GibbsWithGradients": ParallelTempering(GibbsWithGradients(), TEMPERATURES),
        "Tempering of BlockGibbs": ParallelTempering(BlockGibbs(), TEMPERATURES),
    }

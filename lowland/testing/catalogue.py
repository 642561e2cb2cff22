"""Every sampler that lowland ships, in the forms that differ: with and without scale, jitter,
several sweeps, and tempered.
"""

from typing import Any

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
    ShortRun,
    Underdamped,
)

SCALE = (1.0, 0.8, 1.25)  # repeated to the size of an event; one dimension is left as it is
LADDER = (1.0, 1.7, 3.0)


def shipped() -> dict[str, Any]:
    """Samplers by name; a form of a sampler is named after it and what differs.

    Step sizes of biased samplers are the largest of those at which their order is measured.
    """
    plain = [
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
    forms: dict[str, Any] = {type(sampler).__name__: sampler for sampler in plain}
    return forms | {
        "Langevin, scale": Langevin(0.15, inv_mass_sqrt=SCALE),
        "LeimkuhlerMatthews, scale": LeimkuhlerMatthews(0.42, inv_mass_sqrt=SCALE),
        "Underdamped, scale": Underdamped(0.7, inv_mass_sqrt=SCALE),
        "MALA, scale": MALA(0.2, inv_mass_sqrt=SCALE),
        "HMC, scale and jitter": HMC(0.4, 3, inv_mass_sqrt=SCALE, jitter=0.3),
        "NUTS, scale": NUTS(0.5, 4, inv_mass_sqrt=SCALE),
        "GHMC, scale and 3 leapfrogs": GHMC(0.4, 0.5, 3, SCALE),
        "BlockGibbs, 2 sweeps": BlockGibbs(2),
        "Tempering of MALA": ParallelTempering(MALA(0.2), LADDER, (0.2, 0.35, 0.6)),
        "Tempering of HMC": ParallelTempering(HMC(0.4, 3, inv_mass_sqrt=SCALE), LADDER),
        "Tempering of NUTS": ParallelTempering(NUTS(0.5, 3), LADDER, (0.5, 0.65, 0.8)),
        "Tempering of GHMC": ParallelTempering(GHMC(0.4), LADDER, (0.4, 0.5, 0.6)),
        "Tempering of DMALA": ParallelTempering(DMALA(0.5), LADDER, (0.5, 0.8, 1.2)),
        "Tempering of GibbsWithGradients": ParallelTempering(GibbsWithGradients(), LADDER),
        "Tempering of BlockGibbs": ParallelTempering(BlockGibbs(), LADDER),
    }

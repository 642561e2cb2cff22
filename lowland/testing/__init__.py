"""A test bench for samplers, lowland's and others.

    from lowland.testing import prove
    print(prove(MySampler(0.1)))                             # a Sampler
    print(prove(move, domains=("real",), adjusted=True))  # move(energy, x, steps, generator) -> x

`targets` have exact draws; `statistical_checks`, `geweke` and `bias` compare distributions,
`exact_checks` and `side_effects` bits; `proof` runs all that apply; `mutation` plants bugs, and
`mutants` are those that the checks are known to catch. Nothing here needs pytest.
"""

from lowland.testing.bias import diffusion_law, order, temperature_law
from lowland.testing.catalogue import all_samplers
from lowland.testing.chains import (
    LIMIT,
    Chains,
    caught,
    fit_metric,
    seeded,
    stationary,
    worst,
    z_scores,
)
from lowland.testing.exact_checks import (
    HOLES,
    Ground,
    any_event_shape,
    chains_are_separate,
    domain_of,
    gradients_as_declared,
    refuses_holes,
    repeats,
    replicas_travel,
    state_is_fresh,
    stays_in_its_box,
)
from lowland.testing.geweke import joint
from lowland.testing.mutants import MUTANTS
from lowland.testing.mutation import Mutant, mutate
from lowland.testing.proof import Obligation, Report, Row, obligations, prove
from lowland.testing.side_effects import Probe, no_trace, sampling_leaves_no_trace, unsettle
from lowland.testing.statistical_checks import (
    arrival,
    enumeration,
    stationarity,
    walls,
)
from lowland.testing.targets import (
    CONTINUOUS_TARGETS,
    DISCRETE_TARGETS,
    TARGETS,
    Target,
    discrete_target,
)

__all__ = [
    "CONTINUOUS_TARGETS",
    "DISCRETE_TARGETS",
    "HOLES",
    "LIMIT",
    "MUTANTS",
    "TARGETS",
    "Chains",
    "Ground",
    "Mutant",
    "Obligation",
    "Probe",
    "Report",
    "Row",
    "Target",
    "all_samplers",
    "any_event_shape",
    "arrival",
    "caught",
    "chains_are_separate",
    "diffusion_law",
    "discrete_target",
    "domain_of",
    "enumeration",
    "fit_metric",
    "gradients_as_declared",
    "joint",
    "mutate",
    "no_trace",
    "obligations",
    "order",
    "prove",
    "refuses_holes",
    "repeats",
    "replicas_travel",
    "sampling_leaves_no_trace",
    "seeded",
    "state_is_fresh",
    "stationarity",
    "stationary",
    "stays_in_its_box",
    "temperature_law",
    "unsettle",
    "walls",
    "worst",
    "z_scores",
]

"""A test bench for samplers: yours, ours, anyone's.

    from lowland.testing import prove
    print(prove(MySampler(0.1)))                                                  # with init and
                                                                                  step
    print(prove(my_move, domains=("real",), adjusted=True))                       # move(energy, x,
                                                                                  steps, generator)
                                                                                  -> x

`targets` holds laws with exact draws; `statistical_checks` the checks by statistics, `exact_checks`
those that are exact; `proof` runs all that apply; `mutation` plants bugs, and `mutants` are those
that the checks are known to catch. Nothing here needs pytest.
"""

from lowland.testing.catalogue import shipped
from lowland.testing.chains import (
    LIMIT,
    Chains,
    caught,
    fitted,
    seeded,
    stationary,
    worst,
    z_scores,
)
from lowland.testing.exact_checks import (
    HOLES,
    Ground,
    Probe,
    any_event_shape,
    chains_are_separate,
    domain_of,
    gradients_as_declared,
    no_trace,
    refuses_holes,
    repeats,
    replicas_travel,
    sampling_leaves_no_trace,
    state_is_fresh,
    stays_in_its_box,
    unsettle,
)
from lowland.testing.mutants import MUTANTS
from lowland.testing.mutation import Mutant, mutated
from lowland.testing.proof import Obligation, Report, Row, obligations, prove
from lowland.testing.statistical_checks import (
    arrival,
    diffusion_law,
    enumeration,
    joint,
    order,
    stationarity,
    temperature_law,
    walls,
)
from lowland.testing.targets import CONTINUOUS, DISCRETE, TARGETS, Target, enumerated

__all__ = [
    "CONTINUOUS",
    "DISCRETE",
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
    "any_event_shape",
    "arrival",
    "caught",
    "chains_are_separate",
    "diffusion_law",
    "domain_of",
    "enumerated",
    "enumeration",
    "fitted",
    "gradients_as_declared",
    "joint",
    "mutated",
    "no_trace",
    "obligations",
    "order",
    "prove",
    "refuses_holes",
    "repeats",
    "replicas_travel",
    "sampling_leaves_no_trace",
    "seeded",
    "shipped",
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

"""How fast lowland is beside its peers and the bare loop, as paired ratios."""

from benchmarks import record

RESULTS = record.RESULTS / "speed"

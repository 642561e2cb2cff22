"""What is claimed and can be checked: samplers, certificates, survival, precision, machines."""

from benchmarks import record

RESULTS = record.RESULTS / "proof"

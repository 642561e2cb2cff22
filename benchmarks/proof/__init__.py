"""What is claimed and can be checked: samplers, certificates, survival, resume, precision."""

from benchmarks import record

RESULTS = record.RESULTS / "proof"

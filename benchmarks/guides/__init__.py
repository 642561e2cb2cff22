"""The measured parts of the pages that help to choose: which objective, which sampler."""

from benchmarks import record

RESULTS = record.RESULTS / "guides"

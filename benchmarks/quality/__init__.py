"""What energies are worth at their uses: samples, outliers, restoration, robustness, likelihood."""

from benchmarks import record

RESULTS = record.RESULTS / "quality"

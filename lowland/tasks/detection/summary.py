"""Summary statistics of calibration points, to notice points of another kind or preparation."""

from dataclasses import asdict, dataclass

from torch import Tensor

from lowland.devices import to_float64

STATISTICS = {
    "mean": "mean",
    "deviation": "deviation",
    "least": "smallest number",
    "largest": "largest number",
}


@dataclass(frozen=True)
class DataSummary:
    """Event shape, number of points, and of four statistics of a point (mean, deviation, least and
    largest number) the median and the deviation over points.
    """

    shape: tuple[int, ...]
    points: int
    mean: tuple[float, float]
    deviation: tuple[float, float]
    least: tuple[float, float]
    largest: tuple[float, float]

    @classmethod
    def of(cls, x: Tensor) -> "DataSummary":
        """Summarise points (N, *event)."""
        values = {
            name: (float(v.median()), float(v.std(correction=0)))
            for name, v in _statistics(x).items()
        }
        return cls(tuple(x.shape[1:]), len(x), **values)

    def differences(self, x: Tensor) -> list[str]:
        """Describe the statistics in which points x (M, *event) differ from those summarised.

        The median over the batch must be off by more than the deviation of single points and by
        more than 5 standard errors, so that a few outliers in a batch go unnoticed. Raises
        ValueError for another event shape.
        """
        self.check_shape(x)
        differences, known = [], asdict(self)
        for name, values in _statistics(x).items():
            (median, deviation), here = known[name], float(values.median())
            error = 1.25 * deviation * (1 / len(x) + 1 / self.points) ** 0.5  # of a median
            if abs(here - median) > max(deviation, 5 * error) + 0.01 * abs(median):
                differences.append(
                    f"the {STATISTICS[name]} of a point is {here:.3g} (calibration: {median:.3g} ± "
                    f"{deviation:.2g})"
                )
        return differences

    def check_shape(self, x: Tensor) -> None:
        """Raise ValueError unless points x (M, *event) have the event shape of those summarised."""
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(
                f"points have event shape {tuple(x.shape[1:])}; the detector was calibrated on "
                f"{self.shape}; reshape them, batch first, or calibrate anew"
            )


def _statistics(x: Tensor) -> dict[str, Tensor]:
    """Return the four statistics (N,) of points (N, *event) in float64."""
    flat = to_float64(x.detach()).reshape(len(x), -1)
    return {
        "mean": flat.mean(1),
        "deviation": flat.std(1, correction=0),
        "least": flat.amin(1),
        "largest": flat.amax(1),
    }

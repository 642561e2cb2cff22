"""Images restored from seven kinds of measurement: lowland's energies of noise beside what needs no
learning, or little.

    python -m benchmarks.quality.restoration mnist fashion-mnist

takes the first test images of each set, measures them
(`lowland.trained.restoration.MEASUREMENTS`, factor 4, for compressed sensing 5: 157 random
combinations of 784 pixels) with Gaussian noise, 0.3 for denoising and 0.05 for the others, and
restores them with the shipped energy of that name. Nothing here was fitted to test images: the
levels of progressive denoising were chosen on calibration images of MNIST, the weights of total
variation on training images, by PSNR, for each problem.

Rows: the mean of 19 posterior draws of lowland (progressive denoising), one of them, and its most
likely image (MAP); the linear estimate of least error for the mean and covariance of the training
images (Wiener); total variation (scikit-image's denoise_tv_chambolle; where more than noise is to
be undone, ½ ‖A x − y‖² + weight · TV by 40 steps of FISTA with it as the proximal step, inside [0,
1]); a 3 × 3 median filter, where an image was measured; the training image nearest in the
measurement; the mean training image. PSNR and SSIM over whole images, clamped to [0, 1], ± one
standard error over images. Coverage: the share of pixels whose true value lies in the 90 % interval
of the draws (from the lowest to the highest of 19), over the pixels on which draws spread by more
than 0.05, averaged over images; over all pixels; and of the sum of all pixels. "own draws": the
same for images drawn from the energy itself, where a perfect sampler covers 90 %. Writes
benchmarks/results/quality/restoration.{json,md} and a picture for each set.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import circumstances
from benchmarks.quality import RESULTS
from benchmarks.record import read_record, write_record
from lowland import load_data
from lowland.data import save_grid
from lowland.evaluation import coverage, lower_half_hidden
from lowland.metrics import mean, nearest, psnr, ssim
from lowland.tasks import Operator, Restoration
from lowland.trained import Model, load, operator_of

PROBLEMS = {  # task: factor, noise
    "denoise": (4, 0.3),
    "inpaint": (4, 0.05),
    "super-resolve": (4, 0.05),
    "subsample": (4, 0.05),
    "deblur": (4, 0.05),
    "compressed": (5, 0.05),
    "fourier": (4, 0.05),
}
DRAWS, TUNING, SHOWN = 19, 8, 3
WEIGHTS = (0.003, 0.01, 0.03, 0.1, 0.2)


def operator_for(task: str, s: Model) -> Operator:
    return operator_of(
        task, s.shape, factor=PROBLEMS[task][0], known=lower_half_hidden(s.energy.domain)
    )


def measured(operator: Operator, x: Tensor, sigma: float, seed: int) -> Tensor:
    """A x with noise where anything is measured."""
    g = torch.Generator().manual_seed(seed)
    y = operator.A(x)
    kept = operator.A(operator.A_T(torch.randn(y[:1].shape, generator=g))).abs() > 1e-6
    return y + sigma * kept * torch.randn(y.shape, generator=g)


def wiener(operator: Operator, y: Tensor, sigma: float, train: Tensor) -> Tensor:
    """m + C A_T (A C A_T + σ²)⁻¹ (y − A m), with the mean and covariance of training images."""
    flat = train.flatten(1).double()
    centre = flat.mean(0)
    pixels = torch.eye(flat.shape[1]).view(-1, *train.shape[1:])
    a = operator.A(pixels).flatten(1).double().T
    covariance = torch.cov(flat.T)
    seen = a @ covariance @ a.T + sigma**2 * torch.eye(len(a), dtype=torch.float64)
    gain = torch.linalg.solve(seen, a @ covariance).T
    return (
        (centre + (y.flatten(1).double() - centre @ a.T) @ gain.T)
        .view(-1, *train.shape[1:])
        .float()
    )


def total_variation(operator: Operator, task: str, y: Tensor, weight: float) -> Tensor:
    """scikit-image's denoiser, alone or as the proximal step of FISTA."""
    from skimage.restoration import denoise_tv_chambolle

    def denoised(x: Tensor, strength: float) -> Tensor:
        rows = [
            denoise_tv_chambolle(image, weight=strength, max_num_iter=60)
            for image in x[:, 0].double().numpy()
        ]
        return torch.from_numpy(np.stack(rows)).float().unsqueeze(1)

    if task == "denoise":
        return denoised(y, weight)
    back = operator.A_T(y)
    bound = (
        operator.spectral_norm(
            torch.rand(1, *back.shape[1:], generator=torch.Generator().manual_seed(0))
        )
        ** 2
    )
    x, ahead, t = back / bound, back / bound, 1.0
    for _ in range(40):
        now = denoised(ahead - operator.A_T(operator.A(ahead) - y) / bound, weight / bound).clamp(
            0, 1
        )
        after = (1 + (1 + 4 * t * t) ** 0.5) / 2
        x, ahead, t = now, now + (t - 1) / after * (now - x), after
    return x


def tuned(operator: Operator, task: str, sigma: float, train: Tensor) -> float:
    """The weight of total variation that is best on a few training images."""
    truth = train[:TUNING]
    y = measured(operator, truth, sigma, 99)
    return max(
        WEIGHTS, key=lambda w: psnr(total_variation(operator, task, y, w).clamp(0, 1), truth).value
    )


def median(operator: Operator, task: str, y: Tensor) -> Tensor | None:
    """A 3 × 3 median of what was measured, enlarged to the size of the image; None where no image
    was measured.
    """
    from scipy.ndimage import median_filter

    if task in ("inpaint", "compressed", "fourier"):
        return None
    side = y.repeat_interleave(28 // y.shape[-1], -1).repeat_interleave(28 // y.shape[-1], -2)
    return torch.from_numpy(median_filter(side.numpy(), size=(1, 1, 3, 3)))


def covered(answer: Restoration, truth: Tensor) -> dict[str, Any]:
    """Coverage of 90 % intervals: of open pixels, of all pixels, of the sum over the image."""
    low, high = answer.interval(0.9)
    inside = ((low <= truth) & (truth <= high)).flatten(1).double().mean(1)
    sums = Restoration.of(answer.draws.flatten(2).sum(2, keepdim=True))
    total = truth.flatten(1).sum(1, keepdim=True)
    low, high = sums.interval(0.9)
    whole = ((low <= total) & (total <= high)).double().flatten()
    return {
        "open": coverage(answer, truth).to_dict(),
        "all": mean(inside).to_dict(),
        "sum": mean(whole).to_dict(),
    }


def problem(task: str, s: Model, truth: Tensor, own: Tensor) -> tuple[dict[str, Any], Tensor]:
    """The figures of one problem on one set, and a row of its picture."""
    operator, sigma, train = operator_for(task, s), PROBLEMS[task][1], s.data.train.x
    y = measured(operator, truth, sigma, 1)
    seconds: dict[str, float] = {}

    def timed(name: str, act: Callable[[], Any]) -> Any:
        began = time.process_time()
        found = act()
        seconds[name] = (time.process_time() - began) / len(truth)
        return found

    g = torch.Generator().manual_seed(2)
    answer = timed(
        "lowland, mean of 19 draws",
        lambda: s.restore(operator, y, sigma, generator=g, draws=DRAWS),
    )
    weight = tuned(operator, task, sigma, train)
    seen_train = torch.cat([operator.A(part) for part in train.split(5000)])
    rows: dict[str, Tensor | None] = {
        "lowland, mean of 19 draws": answer.mean,
        "lowland, one draw": answer.draws[0],
        "lowland, MAP": timed(
            "lowland, MAP", lambda: s.restore(operator, y, sigma, generator=g, method="map")
        ).mean,
        "linear (Wiener)": wiener(operator, y, sigma, train),
        "total variation": timed(
            "total variation", lambda: total_variation(operator, task, y, weight)
        ),
        "median filter": median(operator, task, y),
        "nearest training image": train[nearest(y.flatten(1), seen_train.flatten(1))[1]],
        "mean image": train.mean(0, keepdim=True).expand_as(truth),
    }
    clamped = {name: x.clamp(0, 1) for name, x in rows.items() if x is not None}
    figures = {
        "sigma": sigma,
        "tv_weight": weight,
        "psnr": {name: psnr(x, truth).to_dict() for name, x in clamped.items()},
        "ssim": {name: ssim(x, truth).to_dict() for name, x in clamped.items()},
        "seconds_per_image": seconds,
        "coverage": covered(answer, truth),
    }
    if len(own):
        again = measured(operator, own, sigma, 3)
        figures["coverage_own"] = covered(
            s.restore(operator, again, sigma, generator=g, draws=DRAWS), own
        )
    seen = y if y.shape == truth.shape else operator.A_T(y)
    seen = seen / seen.flatten(1).amax(1).view(-1, 1, 1, 1)
    spread = answer.std / answer.std.flatten(1).amax(1).view(-1, 1, 1, 1)
    shown = [truth, seen, clamped["lowland, mean of 19 draws"], spread, *answer.draws[:3]]
    shown += [
        clamped[name]
        for name in ("lowland, MAP", "linear (Wiener)", "total variation", "nearest training image")
    ]
    return figures, torch.stack([x[min(SHOWN, len(x) - 1)] for x in shown])


def table(found: dict[str, Any]) -> list[str]:
    """Markdown: for each set PSNR and SSIM, a column for each problem, and the coverage."""
    lines = []
    for name, one in found.items():
        tasks = one["problems"]
        lines += [f"## {name}: {one['images']} images", ""]
        for measure, digits in (("psnr", 2), ("ssim", 3)):
            unit = ", dB" if measure == "psnr" else ""
            lines += [
                f"| {measure.upper()}{unit} | " + " | ".join(tasks) + " |",
                "|---" * (len(tasks) + 1) + "|",
            ]
            for method in next(iter(tasks.values()))[measure]:
                cells = [t[measure].get(method) for t in tasks.values()]
                told = [
                    f"{c['value']:.{digits}f} ± {c['error']:.{digits}f}" if c else "" for c in cells
                ]
                lines.append(f"| {method} | " + " | ".join(told) + " |")
            lines.append("")
        lines += [
            "| coverage of 90 % intervals, % | " + " | ".join(tasks) + " |",
            "|---" * (len(tasks) + 1) + "|",
        ]
        for group, who in (
            ("coverage", "test images"),
            ("coverage_own", f"own draws ({one['own']})"),
        ):
            for key, what in (
                ("open", "pixels that draws leave open"),
                ("all", "all pixels"),
                ("sum", "sum of the image"),
            ):
                cells = [t.get(group, {}).get(key) for t in tasks.values()]
                if any(cells):
                    told = [
                        f"{100 * c['value']:.1f} ± {100 * c['error']:.1f}" if c else ""
                        for c in cells
                    ]
                    lines.append(f"| {who}: {what} | " + " | ".join(told) + " |")
        lines += [
            "",
            "| processor seconds per image | " + " | ".join(tasks) + " |",
            "|---" * (len(tasks) + 1) + "|",
        ]
        for method in next(iter(tasks.values()))["seconds_per_image"]:
            lines.append(
                f"| {method} | "
                + " | ".join(f"{t['seconds_per_image'][method]:.2f}" for t in tasks.values())
                + " |"
            )
        lines += ["", f"![{name}](restoration-{name}.png)", ""]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", nargs="*", default=["mnist", "fashion-mnist"])
    parser.add_argument("--images", type=int, default=100, help="test images restored")
    parser.add_argument(
        "--own",
        type=int,
        default=20,
        help="images drawn from the energy itself, for its coverage; 0 for none",
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / "restoration.json"
    found: dict[str, Any] = read_record(path, {"found": {}})["found"]
    for name in given.sets:
        s = load(name, data=load_data(name))
        truth = s.data.test.x[: given.images]
        own = (
            s.sample(given.own, generator=torch.Generator().manual_seed(4)).x.clamp(0, 1)
            if given.own
            else truth[:0]
        )
        options = f"--images {given.images} --own {given.own}"
        command = f"python -m benchmarks.quality.restoration {name} {options}"
        found[name] = circumstances(command) | {
            "images": len(truth),
            "own": len(own),
            "how": s.recipe["restoration"],
            "problems": {},
        }
        pictures = []
        for task in PROBLEMS:
            figures, row = problem(task, s, truth, own)
            found[name]["problems"][task] = figures
            pictures.append(row)
            print(name, task, json.dumps({k: figures[k] for k in ("psnr", "coverage")}), flush=True)
            save_grid(
                torch.cat(pictures),
                RESULTS / f"restoration-{name}.png",
                columns=len(row),
                pixels=56,
            )
            write(found)
    print("\n".join(table(found)))


def write(found: dict[str, Any]) -> None:
    write_record(RESULTS / "restoration.json", {"found": found})
    words = (__doc__ or "").split("\n\n", 2)
    head = [
        "# Restoration",
        "",
        f"`benchmarks/quality/restoration.py` {words[2].split('Writes')[0].strip()}",
        "",
    ]
    head += [
        f"`{one['command']}`, {one['date']}, {one['machine']['cpu']}.  " for one in found.values()
    ]
    columns = (
        "Columns of the pictures: truth, measurement as an image, mean, spread (black: sure), "
        "three draws, MAP, linear, total variation, nearest training image; a row for each "
        "problem, in the order of the table."
    )
    (RESULTS / "restoration.md").write_text("\n".join([*head, "", columns, "", *table(found)]))


if __name__ == "__main__":
    main()

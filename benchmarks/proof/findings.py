"""What the proof found in ebmkit and torchebm, each as a program of a few lines that shows it
without lowland.
"""

import subprocess
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """Something that the bench condemns, in a few lines without lowland."""

    title: str
    why: str
    code: str

    def said(self) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", self.code],
            capture_output=True,
            text=True,
            timeout=600,
        )
        return (done.stdout + done.stderr[-300:]).strip()


HALF = "E = lambda x: 0.5 * x.square().sum(1)"
FINDINGS = (
    Finding(
        "ebmkit `TemperedTransitions` does not leave its distribution invariant",
        "The way down ends with the kernel at temperature 1 inside the proposal; Neal's scheme "
        "leaves it out, as the kernels must be a palindrome. From exact draws of N(0, 1) the "
        "variance should stay 1 ± 0.01.",
        f"""import torch, ebm.samplers as s
torch.manual_seed(0)
{HALF}
x = torch.randn(20_000, 1)
print("variance", s.TemperedTransitions(s.MALA(0.5), steps=20).sample(E, x).var().item())""",
    ),
    Finding(
        "ebmkit `ParallelTempering(swap_every=2)` never swaps half of its pairs",
        "The parity of a swap is that of the sweep, and only even sweeps swap. The distribution "
        "is kept; "
        "the ladder is cut, and nothing says so. With swap_every=1 all pairs swap.",
        f"""import torch, ebm.samplers as s
torch.manual_seed(0)
{HALF}
for every in (1, 2, 4):
    pt = s.ParallelTempering(s.MALA(0.5), (1.0, 2.0, 4.0, 8.0), swap_every=every, steps=400)
    pt.sample(E, torch.randn(500, 1)); print("swap_every", every, "swap rates", [round(r, 2) for r
    in pt.swap_rates()])""",
    ),
    Finding(
        "ebmkit `NUTS` and `AdaptiveMALA` stand still once a warm-up proposal has a non-finite "
        "energy",
        "The mean acceptance becomes nan, and with it the step size. Chains stay where they are; "
        "no error is raised. Gamma(3, 1) has mean 3 and variance 3.",
        """import torch, ebm.samplers as s
torch.manual_seed(0)
E = lambda x: (x - 2 * x.log()).sum(1)
for sampler in (s.NUTS(0.5, warmup=200), s.AdaptiveMALA(0.5, warmup=200)):
    y = sampler.sample(E, torch.full((2000, 1), 6.0), steps=200)
    print(type(sampler).__name__, "step", sampler.step_size, "mean", y.mean().item(), "variance",
    y.var().item())""",
    ),
    Finding(
        "torchebm `HamiltonianMonteCarlo` puts chains at exactly 0 where the gradient is nan",
        "In its safe mode positions that are nan become 0 and are then judged, and accepted, as if "
        "the trajectory had led there. N(0, 1) cut off at 0.5: exact draws have mean -0.51, and no "
        "draw is exactly 0.",
        """import torch; from torchebm.core import BaseModel; from torchebm.samplers import
        HamiltonianMonteCarlo as HMC
torch.manual_seed(0)
class Cut(BaseModel):
    def forward(self, x): return (0.5 * x.square() + 0 * (0.5 - x).sqrt()).sum(1)
x = torch.randn(200_000, 1); x = x[x[:, 0] < 0.5][:50_000]
y = HMC(Cut(), step_size=0.4, n_leapfrog_steps=4).sample(x, n_steps=12)
print("mean before", x.mean().item(), "after", y.mean().item(), "share at exactly 0:", (y ==
0).float().mean().item())""",
    ),
    Finding(
        "torchebm `HamiltonianMonteCarlo` does not take images",
        "The kinetic energy is summed over the last dimension only. `RiemannianManifoldHMC` says "
        "that it is for vectors.",
        """import torch; from torchebm.core import BaseModel; from torchebm.samplers import
        HamiltonianMonteCarlo as HMC
class Bowl(BaseModel):
    def forward(self, x): return 0.5 * x.square().flatten(1).sum(1)
try: HMC(Bowl(), step_size=0.1).sample(torch.zeros(8, 1, 4, 4), n_steps=2)
except Exception as problem: print(type(problem).__name__, problem)""",
    ),
    Finding(
        'torchebm `LangevinDynamics(integrator="heun")` is of first order, with twice the bias '
        "of Euler–Maruyama on a Gaussian",
        'The class is documented as "a second-order method", its base class says that noise is '
        "added at the order of Euler. "
        "N(0, 1): the excess of the variance, at three steps.",
        """import torch; from torchebm.core import BaseModel; from torchebm.samplers import
        LangevinDynamics
torch.manual_seed(0)
class Bowl(BaseModel):
    def forward(self, x): return 0.5 * x.square().sum(1)
for i in ("euler_maruyama", "heun"):
    for h in (0.4, 0.2, 0.1):
        sampler, x = LangevinDynamics(Bowl(), step_size=h, integrator=i), torch.randn(400_000, 1)
        print(i, h, round(sampler.sample(x, n_steps=int(12 / h)).var().item() - 1, 3))""",
    ),
)

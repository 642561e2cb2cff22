"""lowland: energy-based models that people can trust. Data live in the lowlands; everything else is
uphill.

Five nouns: an Energy scores points; a Sampler moves them downhill, with noise; Chains remember
where they got to; an Objective compares data with samples; a Run is the directory where it all ends
up. Names are loaded when first used, so that `import lowland` and `lowland --help` cost nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "lowland.energy": "Energy Function Given Mixture Sum check_energy energy_values mixture value_and_score",
    "lowland.domain": "Domain binary box categorical real",
    "lowland.registry": "build register registered spec",
    "lowland.run": "Run RunError",
    "lowland.trained": "Model load",
    "lowland.pretrained": "shipped",
    "lowland.samplers": (
        "DMALA GHMC HMC MALA NUTS BlockGibbs Draws Energies Frames GibbsWithGradients Info "
        "Langevin LeimkuhlerMatthews Lowest Moments ParallelTempering ConditionalEnergy ShortRun State "
        "Trace Underdamped ais anneal geometric_schedule geometric_path scale_step_sizes predictor_corrector "
        "vp_to_ve probability_flow multiscale_sample diffusion_recovery_sample sample simulated_annealing karras_sigmas tune"
    ),
    "lowland.replay": "ReplayBuffer",
    "lowland.objectives": (
        "CD DSM JEM NCE PCD Cooperative DiffusionRecovery EnergyDiscrepancy EnergyL2 "
        "EnergyMatching EquilibriumMatching FlowContrastive GradientPenalty HingeMargin ImprovedCD "
        "InfoNCE Loss MultilevelDSM OutlierExposure PseudoLikelihood PullAway RankingNCE "
        "RatioMatching Robust ScoreMatching ShortRunML WakeSleep contrast"
    ),
    "lowland.nets": (
        "DBM DBN IGEBM MLP RBM ClassifierEnergy ConvNet DenoiserMLP EmbeddingMLP NoiseMLP "
        "NoiseUNet PairEnergy WideResNet"
    ),
    "lowland.metrics": (
        "Estimate Likelihood LogZ Summary autocorrelation bits_per_dim ess log_likelihood log_z "
        "mcse rhat summary"
    ),
    "lowland.robustness": "robust_accuracy",
    "lowland.interop": "to_arviz to_pyod to_pytorch_ood",
    "lowland.training": "fit greedy grow",
    "lowland.tasks": (
        "Detector Identity LabelGuidance Mask PurifiedClassifier Restoration compose conditional_sample "
        "edit interpolate purify restore sample_composed soft_not"
    ),
    "lowland.data": "Dataset load_data",
    "lowland.config": "Recipe read_recipe",
    "lowland.commands": "evaluate report train",
    "lowland.report": "write_report",
}
_home_of = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = [*_home_of, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _home_of:
        return getattr(import_module(_home_of[name]), name)
    raise AttributeError(f"module 'lowland' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


if TYPE_CHECKING:
    from lowland.energy import Energy as Energy
    from lowland.replay import ReplayBuffer as ReplayBuffer

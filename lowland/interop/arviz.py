"""Traces for ArviZ: plots, tables and files of the wider MCMC world."""

from typing import TYPE_CHECKING

from lowland.extras import import_extra
from lowland.samplers import Trace

if TYPE_CHECKING:
    from xarray import DataTree


def to_arviz(trace: Trace, name: str = "x") -> "DataTree":
    """Convert a trace to the DataTree of ArviZ: posterior with dimensions (chain, draw, *event),
    and sample_stats where they exist.

    sample_stats: acceptance_rate (chain) and diverged (chain), which a trace counts per chain; lp
    (chain, draw), log p up to a constant, if `Energies` was recorded along with every draw.

    Raises ImportError without arviz-base (the extra `arviz`), ValueError if the trace kept no
    draws.

    >>> import torch, lowland
    >>> g, start = torch.Generator().manual_seed(0), torch.zeros(4, 2)
    >>> gaussian = lambda x: 0.5 * x.square().sum(1)
    >>> trace = lowland.sample(gaussian, lowland.MALA(0.5), start, 20, generator=g, thin=1)
    >>> dict(to_arviz(trace).posterior.sizes)
    {'chain': 4, 'draw': 20, 'x_dim_0': 2}
    """
    arviz_base = import_extra("arviz_base")
    import xarray

    origin = {"inference_library": "lowland"}
    draws = trace.draws.detach().transpose(0, 1).cpu().numpy()
    posterior = arviz_base.dict_to_dataset({name: draws}, attrs=origin)
    chains = {
        "acceptance_rate": trace.acceptance.cpu().numpy(),
        "diverged": trace.diverged.cpu().numpy(),
    }
    stats = arviz_base.dict_to_dataset(chains, sample_dims=["chain"], attrs=origin)
    energies = trace.records.get("energies")
    if energies is not None and len(energies) == len(trace.draws):
        stats = stats.merge(arviz_base.dict_to_dataset({"lp": -energies.detach().T.cpu().numpy()}))
    return xarray.DataTree.from_dict({"posterior": posterior, "sample_stats": stats})

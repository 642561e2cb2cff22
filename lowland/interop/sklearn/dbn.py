"""The deep belief net as a transformer."""

from collections.abc import Sequence
from dataclasses import dataclass

from lowland import nets
from lowland.interop.sklearn.stack import RBMStack


@dataclass(eq=False, repr=False)
class DBN(RBMStack):
    """Deep belief net: restricted Boltzmann machines on top of each other, trained one after
    another.

    n_components: hidden units of each layer. What a layer learns from are the hidden units of the
    one below, drawn anew for every batch. The other parameters are those of `RBM` and the same for
    all layers; learning_rate="auto" is 0.3, and 0.1 for a first layer on gaussian columns.
    `score_samples` gives a lower bound of log p(x).

    Attributes: machines_ (the lowland energies of the layers, from the data up), energy_ (for
    binary columns, the `lowland.nets.DBN` that they make, for wake–sleep training or as the start
    of a classifier), columns_, chains_ (n_chains, units below the last layer) (persistent chains of
    the machine on top), log_z_ (of the machine on top), history_ (one row per layer and pass),
    n_features_in_, feature_names_in_.

    Sparse input is made dense. Raises ValueError for parameters out of range and for binary columns
    with values outside [0, 1]. Source: Hinton, Osindero & Teh (2006),
    https://doi.org/10.1162/neco.2006.18.7.1527

    >>> import numpy as np
    >>> x = (np.random.RandomState(0).rand(300, 1) < np.linspace(0.1, 0.9, 6)).astype(float)
    >>> dbn = DBN((5, 3), n_iter=5, random_state=0).fit(x)
    >>> dbn.transform(x).shape, dbn.sample(2, steps=10).shape
    ((300, 3), (2, 6))
    """

    n_components: Sequence[int] = (256, 256)

    @property
    def energy_(self) -> nets.DBN:
        net = nets.DBN(self.columns_.domain, tuple(machine.n_hidden for machine in self.machines_))
        for layer, machine in enumerate(self.machines_):
            net.adopt(layer, machine)
        return net.eval().requires_grad_(False)

"""The restricted Boltzmann machine as a transformer."""

from dataclasses import dataclass

from numpy.typing import ArrayLike

from lowland import nets
from lowland.interop.sklearn.arrays import Array
from lowland.interop.sklearn.estimator import RandomState, to_place
from lowland.interop.sklearn.stack import RBMStack
from lowland.samplers import BlockGibbs, sample


@dataclass(eq=False, repr=False)
class RBM(RBMStack):
    """Restricted Boltzmann machine: features P(h = 1 | x), log-likelihoods, and samples of a table.

        p(x) = Σ_h exp(aᵀx + cᵀh + xᵀW h) / Z            (binary columns)

    n_components: hidden units; visible: "binary", "gaussian", or "auto": binary if all values lie
    in [0, 1], else gaussian. Binary columns may hold probabilities of a one, from which every batch
    is drawn anew; gaussian columns are standardized inside. objective: "pcd", from n_chains
    persistent chains, or "cd", from chains at the data, gibbs_steps sweeps an update.
    learning_rate: of plain stochastic gradient on the centred gradient, falling linearly to 0 in
    `fit`, constant in `partial_fit`; "auto" is 0.3 for binary columns and 0.1 for gaussian ones;
    weights are averaged over the last fifth of the updates. batch_size: at least 2; n_iter: passes
    over the data; momentum, weight_decay; precision: "float32", "bfloat16" for rounded matrix
    products, or "auto" for the faster of the two; device: "auto" (a GPU if there is one, else the
    CPU), "cpu", "cuda", ...; what is fitted is kept on the CPU. likelihood: estimate log Z at the
    end of `fit`, which `score_samples` needs to give log-likelihoods; without, it gives minus free
    energies. verbose: 1 prints a line for each pass.

    Attributes: energy_ (the lowland energy of columns as they are inside), components_
    (n_components, D), intercept_hidden_, intercept_visible_, columns_ (kind and scaling), chains_
    (n_chains, D) (persistent chains at the end), log_z_ (a `LogZ` with its certificate), history_
    (one row per pass), n_features_in_, feature_names_in_.

    Sparse input is made dense. Training is in float32, everything later in the dtype of X. Raises
    ValueError for parameters out of range and for binary columns with values outside [0, 1]; warns
    (ConvergenceWarning) of what the health report calls bad. Source of the model and its training:
    see `lowland.nets.RBM`.

    >>> import numpy as np
    >>> x = (np.random.RandomState(0).rand(300, 1) < np.linspace(0.1, 0.9, 6)).astype(float)
    >>> rbm = RBM(3, n_iter=20, random_state=0).fit(x)
    >>> rbm.log_z_.method, bool(rbm.score(x) > -6 * np.log(2))
    ('enumeration', True)
    """

    n_components: int = 256

    def gibbs(self, X: ArrayLike, *, steps: int = 1, random_state: RandomState = None) -> Array:
        """Move X (N, D) by `steps` Gibbs sweeps, each h ~ p(h | x), x ~ p(x | h).

        Without random_state successive calls draw anew from the machine's own stream.
        """
        x = self._points(X)
        place = self._place(x.dtype)
        x, generator = x.to(place), self._generator(random_state, place)
        machine = to_place(self.energy_, x.dtype, place)
        return self.columns_.to_array(
            sample(machine, BlockGibbs(), x, steps, generator=generator).x
        )

    @property
    def energy_(self) -> nets.RBM:
        return self.machines_[0]

    @property
    def components_(self) -> Array:
        return self.energy_.weight.t().numpy()

    @property
    def intercept_hidden_(self) -> Array:
        return self.energy_.hidden_bias.numpy()

    @property
    def intercept_visible_(self) -> Array:
        return self.energy_.visible_bias.numpy()

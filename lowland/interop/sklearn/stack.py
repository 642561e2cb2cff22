"""Stacks of restricted Boltzmann machines as transformers: one machine is an RBM, several are a
deep belief net.

    p(x, h¹, …, h^{L−1}) = p_1(x | h¹) p_2(h¹ | h²) … p_L(h^{L−1})

with p_k(· | h^k) of machine k and the free energy F_L of the machine on top. With recognition
q_k(h^k | h^{k−1}), the other conditional of the same machine, and the energy F̂_k of its hidden
side, log p_k(h^{k−1} | h^k) − log q_k(h^k | h^{k−1}) is F̂_k(h^k) − F_k(h^{k−1}), and so

    log p(x) ≥ E_q[ Σ_{k<L} (F̂_k(h^k) − F_k(h^{k−1})) − F_L(h^{L−1}) ] − log Z_L

with equality for L = 1.
"""

import copy
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_array, check_is_fitted
from torch import Tensor

from lowland import nets
from lowland.data import Batches, Dataset, bernoulli_sample
from lowland.devices import CPU
from lowland.energy.scales import measure_columns
from lowland.energy.sizes import read_sizes
from lowland.interop.sklearn.arrays import Array, Columns, refuse, train
from lowland.interop.sklearn.estimator import BoltzmannEstimator, RandomState, to_place
from lowland.metrics import log_z
from lowland.samplers import BlockGibbs, sample
from lowland.scalars import MAX_STEPS, read_integer
from lowland.targets import Normal
from lowland.training.layerwise import hidden_data
from lowland.training.session import Session
from lowland.training.settings import Plain, Row

MAX_ENUMERATION = 2**28  # numbers that an exact log Z may cost: a few seconds
NUM_BOUND_DRAWS = 10  # of hidden units


@dataclass(eq=False, repr=False)
class RBMStack(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BoltzmannEstimator):
    """The common base of RBM and DBN. Attributes after fitting: `machines_`, from the data up."""

    n_components: int | Sequence[int] = 256
    _: KW_ONLY
    objective: str = "pcd"
    momentum: float = 0.0
    likelihood: bool = True
    machines_: list[nets.RBM] = field(init=False)

    def _sizes(self) -> Sequence[int]:
        """Return the hidden units of each machine."""
        if np.ndim(self.n_components):
            return read_sizes("n_components", self.n_components)
        return (read_integer("n_components", self.n_components, least=1),)

    # ---- fitting ---------------------------------------------------------------------------------

    @torch.inference_mode(False)
    @torch.enable_grad()
    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Train on X (N, D), from scratch, one machine after another. Returns the estimator."""
        sizes, data = self._sizes(), self._learn_columns(self._check_rows(X, reset=True))
        sessions: list[Session] = []
        self.history_: list[Row] = []
        for layer, hidden in enumerate(sizes):
            if sessions:
                data = hidden_data(sessions[-1].ema.module, data, self._seed)
            sessions.append(Session(self._layer_recipe(data, hidden), data))
            name = f"{type(self).__name__} layer {layer + 1}"
            rows = train(sessions[-1], self.n_iter, name, self.verbose)
            self.history_ += [{"layer": layer, **row} for row in rows]
        self._take_results(sessions)
        self.__dict__.pop("_sessions", None)
        if self.likelihood:
            self.measure(X)
        return self

    @torch.inference_mode(False)
    @torch.enable_grad()
    def partial_fit(self, X: ArrayLike, y: object = None) -> Self:
        """Update each machine once on X (N, D), at the constant learning rate, weights averaged
        over some hundred updates.

        The first call decides what the columns are. Goes on from what `fit` learned. log_z_ is no
        longer that of the machine and is dropped: call `measure` before `score_samples`. Returns
        the estimator.
        """
        first = "machines_" not in vars(self)
        x, sizes = self._check_rows(X, reset=first), self._sizes()
        data = self._learn_columns(x) if first else self.columns_.dataset(x)
        sessions: list[Session] = self.__dict__.setdefault("_sessions", [])
        for layer, hidden in enumerate(sizes):
            if layer == len(sessions):
                sessions.append(self._open_session(None if first else layer, data, hidden))
            session = sessions[layer]
            session.data = data
            session.batches = Batches(data.train, seed=session.step, device=session.device)
            session.settings = replace(session.settings, batch=max(len(x), 2))
            session.advance()
            data = hidden_data(session.ema.module, data, self._seed)
        self._take_results(sessions)
        self.__dict__.pop("log_z_", None)
        return self

    def _learn_columns(self, x: Array) -> Dataset:
        """Learn the columns of a first table; returns its data set."""
        self._seed = self._start()
        self.columns_ = Columns.learn(x, self.visible)
        return self.columns_.dataset(x)

    def _open_session(self, layer: int | None, data: Dataset, hidden: int) -> Session:
        """Return a session without an end: from the weights of a fitted layer, and on top from its
        chains; from scratch for None.
        """
        recipe = self._layer_recipe(data, hidden)
        recipe["training"] |= {
            "decay_fraction": 0.0,
            "tail_average_fraction": 0.0,
            "ema_decay": 0.99,
        }
        if layer is None:
            return Session(recipe, data)
        session = Session(recipe, data, copy.deepcopy(self.machines_[layer]).requires_grad_(True))
        top = layer + 1 == len(self.machines_)
        if top and session.buffer is not None and len(self.chains_) == len(session.buffer):
            session.buffer.x = torch.from_numpy(self.chains_.copy()).to(session.device)
        return session

    def _layer_recipe(self, data: Dataset, hidden: int) -> dict[str, Any]:
        objectives: dict[str, Plain] = {"pcd": self._chain_settings(), "cd": {"name": "CD"}}
        if self.objective not in objectives:
            refuse([f"objective is {self.objective!r}; it is 'pcd' or 'cd'"])
        rate = self.learning_rate
        if rate == "auto":
            rate = 0.3 if data.domain.kind == "binary" else 0.1
        optimizer = {"optimizer": "sgd", "learning_rate": rate, "momentum": self.momentum}
        objective = objectives[self.objective]
        return self._recipe(self._seed, len(data.train), {"n_hidden": hidden}, objective, optimizer)

    def _take_results(self, sessions: Sequence[Session]) -> None:
        """Keep the machines of the sessions, and the chains of the one on top."""
        here, full = torch.device(CPU), torch.float32
        machines = [cast(nets.RBM, session.ema.module) for session in sessions]
        self.machines_ = [to_place(machine, full, here) for machine in machines]
        top, buffer = self.machines_[-1], sessions[-1].buffer
        if buffer is None:
            points = top.domain.draw(self.n_chains, self._generator(), dtype=torch.float32)
        else:
            points = buffer.x
        self.chains_, self._n_features_out = points.cpu().numpy().copy(), top.n_hidden

    def measure(self, X: ArrayLike, *, chains: int = 100, num_temperatures: int = 300) -> Self:
        """Estimate log Z (`log_z_`): exact where that takes seconds, else annealed importance
        sampling, forward and reverse.

        X (N, D): data to start the path at; chains, num_temperatures: see `lowland.metrics.log_z`.
        Returns the estimator.
        """
        place = self._place(torch.float32)
        *lower, top = (to_place(machine, torch.float32, place) for machine in self.machines_)
        x, generator = self._points(X).float().to(place), self._generator(device=place)
        if self.columns_.kind == "binary":
            x = bernoulli_sample(x, generator)
        with torch.no_grad():
            for machine in lower:
                x = machine.draw_hidden(x, generator)
        units, base = min(top.n_hidden, x.shape[1]), None
        if top.domain.kind == "real":  # a Gaussian base, so that its path has block Gibbs
            units, base = top.n_hidden, Normal(*measure_columns(x)).to(place)
        exact = None if 2.0**units * max(top.n_hidden, x.shape[1]) <= MAX_ENUMERATION else False
        self.log_z_ = log_z(
            top,
            base=base,
            data=x,
            chains=chains,
            num_temperatures=num_temperatures,
            generator=generator,
            exact=exact,
        )
        return self

    # ---- using -----------------------------------------------------------------------------------

    def transform(self, X: ArrayLike) -> Array:
        """Return the means E[h | x] of the last hidden layer (N, n_components), layer by layer, in
        the dtype of X.
        """
        x = self._points(X)
        place = self._place(x.dtype)
        x = x.to(place)
        with torch.no_grad():
            for machine in self.machines_:
                x = to_place(machine, x.dtype, place).hidden_mean(x)
        return x.cpu().numpy()

    def inverse_transform(self, X: ArrayLike) -> Array:
        """Return the means of x (N, D) given hidden units X (N, n_components), layer by layer, in
        the units of the data.
        """
        check_is_fitted(self)
        rows = check_array(X, dtype=np.float64, copy=True)
        if rows.shape[1] != self._n_features_out:
            raise ValueError(
                f"rows of {rows.shape[1]} numbers came; the last layer has {self._n_features_out} "
                "hidden units; pass what transform returned"
            )
        place = self._place(torch.float64)
        h = torch.from_numpy(rows).to(place)
        with torch.no_grad():
            for machine in reversed(self.machines_):
                h = to_place(machine, h.dtype, place).visible_mean(h)
        return self.columns_.to_array(h)

    def score_samples(self, X: ArrayLike) -> Array:
        """Return log p(x) (N,) in nats with the point estimate of log Z in `log_z_`; with
        likelihood=False, without log Z.

        Of several layers this is the lower bound, its expectation a mean over 10 draws with a seed
        of the fit; without log Z, one layer gives minus the free energy. The log-density of
        gaussian columns is in the units of the data. Where binary columns hold values strictly
        between 0 and 1, one layer gives the formula at the probabilities: by convexity at most the
        mean of log p(x) over draws from them.

        Raises ValueError after `partial_fit` with likelihood=True, until `measure` has been called.
        """
        x = self._points(X)
        if self.likelihood and "log_z_" not in vars(self):
            raise ValueError(
                "the machine has changed since its log Z was estimated; log-likelihoods need that "
                "of the present one; call measure(X), or set likelihood=False to go without"
            )
        found = self._bound(x.double()).cpu().numpy() - self.columns_.log_volume
        if self.likelihood:
            found -= self.log_z_.value
        return found

    def _bound(self, x: Tensor) -> Tensor:
        """Return log p(x) + log Z (N,), or a lower bound of it."""
        place = self._place(x.dtype)
        *lower, top = (to_place(machine, x.dtype, place) for machine in self.machines_)
        generator, x = torch.Generator(place).manual_seed(self._seed), x.to(place)
        found = []
        with torch.no_grad():
            for _ in range(NUM_BOUND_DRAWS if lower else 1):
                v, value = x, x.new_zeros(len(x))
                for machine in lower:
                    h = machine.draw_hidden(v, generator)
                    value += machine.hidden_marginal()(h) - machine(v)
                    v = h
                # grey values stand for probabilities, which are no points of the domain
                found.append(value - torch.cat([top(part) for part in v.split(1024)]))
        return torch.stack(found).mean(0)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle: without the sessions of `partial_fit` where they live on a
        device that the reader may not have; the machines go on from their weights.
        """
        state: dict[str, Any] = super().__getstate__()
        if any(session.device.type != CPU for session in state.get("_sessions", ())):
            state = {name: value for name, value in state.items() if name != "_sessions"}
        return state

    def score(self, X: ArrayLike, y: object = None) -> float:
        """Return the mean of `score_samples`."""
        return float(self.score_samples(X).mean())

    def sample(
        self, n_samples: int = 1, *, steps: int = 1000, random_state: RandomState = None
    ) -> Array:
        """Draw points (n_samples, D): `steps` Gibbs sweeps of the machine on top from the chains of
        training, and a pass down.

        Chains are picked at random, each at most once if there are enough. Without random_state
        every call draws anew from the machine's own stream.
        """
        check_is_fitted(self)
        n_samples = read_integer("n_samples", n_samples, least=1)
        steps = read_integer("steps", steps, least=1, most=MAX_STEPS)
        place, count = self._place(torch.float32), len(self.chains_)
        g, rounds = self._generator(random_state, place), -(-n_samples // count)
        orders = [torch.randperm(count, generator=g, device=place) for _ in range(rounds)]
        start = torch.from_numpy(self.chains_).to(place)[torch.cat(orders)[:n_samples]]
        *lower, top = (to_place(machine, torch.float32, place) for machine in self.machines_)
        with torch.no_grad():
            x = sample(top, BlockGibbs(), start, steps, generator=g).x
            for machine in reversed(lower):
                x = machine.draw_visible(x, g)
        return self.columns_.to_array(x)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

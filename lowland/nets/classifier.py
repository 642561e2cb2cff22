"""Labels and energies: any classifier as an energy, and an energy with the label as an input."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from lowland.domain import Domain
from lowland.energy import ConditionLike, Energy, LabelCondition
from lowland.energy.sizes import check_memory, read_sizes
from lowland.nets.class_energy import ClassEnergy, condition_for, pick
from lowland.nets.perceptron import perceptron
from lowland.nets.vectors import add_bowl, flat_size, to_unit_box
from lowland.registry import Plain, register
from lowland.scalars import read_integer, read_number


class ClassifierEnergy(ClassEnergy):
    """Any classifier with logits f(x) (B, K) as an energy, its weights as they are.

        E(x, y) = −f_y(x),    E(x) = −log (1/K) Σ_k exp f_k(x),    p(y | x) = softmax(f(x))_y

    E(x) is that of every energy with classes here (`nets.conditions`), log K above the −log Σ_k exp
    f_k(x) of the source: the distribution, the score and differences of energies are the same.
    Composes, samples, restores and detects like any energy.

    module: an nn.Module or a function (B, *event) → (B, K), in the mode it shall be used in: batch
    norm must be in eval mode, and `check_energy` refuses it otherwise; classes: K; domain: of x.
    Raises ValueError for fewer than 2 classes, or if the module gives anything but (B, K). Source:
    Grathwohl et al. (2020), https://arxiv.org/abs/1912.03263

    >>> import torch
    >>> from lowland.domain import box
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> energy = ClassifierEnergy(net, 10, box(0.0, 1.0, 1, 8, 8))
    >>> x = torch.zeros(2, 1, 8, 8)
    >>> torch.equal(energy(x, torch.tensor([3, 4])), -net(x)[[0, 1], [3, 4]])
    True
    """

    def __init__(
        self,
        module: Callable[[Tensor], Tensor],
        classes: int,
        domain: Domain | Plain | None = None,
    ) -> None:
        if not callable(module) or isinstance(module, type):
            raise ValueError(
                f"a {type(module).__name__} was given as classifier; a callable x -> logits (B, K) "
                "is needed; pass the classifier and its number of classes"
            )
        super().__init__(domain)
        self.module, self.classes = module, read_integer("classes", classes, least=2)

    def class_energies(self, x: Tensor) -> Tensor:
        logits = self.module(x)
        if logits.shape != (len(x), self.classes):
            raise ValueError(
                f"the classifier gave {tuple(logits.shape)} for {len(x)} points; logits ({len(x)}, "
                f"{self.classes}) are needed; pass the number of its classes, and logits, one row "
                "per point"
            )
        return -logits


@register("energy")
class EmbeddingMLP(Energy):
    """Multilayer perceptron energy of a point and its label, a learned vector v_y.

        E(x, y) = s · net(W z + v_y) + a/2 ‖z‖²,    E(x) = −log (1/K) Σ_y exp(−E(x, y)), z = x
                                                    stretched to [−1, 1]

    The same as concatenating x with an embedding. Every layer sees the label, not the last alone as
    with heads (`MLP`), at the cost that all K energies, and so E(x) and soft labels, take K passes
    through all layers but the first.

    hidden: widths of the SiLU layers; classes: K; quadratic_weight: a; scale: s.

    >>> import torch
    >>> from lowland.domain import real
    >>> energy = EmbeddingMLP(real(2), hidden=(8,), classes=3)
    >>> energy(torch.zeros(4, 2)).shape, energy(torch.zeros(4, 2), torch.tensor([0, 1, 2, 0])).shape
    (torch.Size([4]), torch.Size([4]))
    """

    def __init__(
        self,
        domain: Domain | Plain,
        hidden: Sequence[int] = (128, 128),
        classes: int = 2,
        quadratic_weight: float = 0.0,
        scale: float = 1.0,
    ) -> None:
        super().__init__(domain)
        self.hidden = read_sizes("hidden", hidden)
        self.classes = read_integer("classes", classes, least=2)
        self.quadratic_weight = read_number("quadratic_weight", quadratic_weight, least=0)
        self.scale = read_number("scale", scale, above=0)
        width, size = self.hidden[0], flat_size(self.domain)
        check_memory("EmbeddingMLP", width * (size + self.classes))
        self.first, self.label = nn.Linear(size, width), nn.Embedding(self.classes, width)
        self.net = nn.Sequential(nn.SiLU(), *perceptron([*self.hidden, 1], spectral_norm=False))

    def class_energies(self, x: Tensor) -> Tensor:
        """Return the energies (B, K) of points x (B, *event) for every class."""
        z = to_unit_box(x, self.domain).flatten(1)
        return self._energies(z, self.first(z).unsqueeze(1) + self.label.weight)

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        c = condition_for(c, self.classes, x)
        if c is None or c.dim() == 2:
            return pick(self.class_energies(x), c)
        z = to_unit_box(x, self.domain).flatten(1)
        return self._energies(z, (self.first(z) + self.label(c)).unsqueeze(1)).squeeze(1)

    @property
    def condition(self) -> LabelCondition:
        return LabelCondition(self.classes, self.class_energies)

    def _energies(self, z: Tensor, h: Tensor) -> Tensor:
        return add_bowl(self.scale * self.net(h).squeeze(2), z, self.quadratic_weight)

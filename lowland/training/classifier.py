"""A classifier trained on real images alone, which judges samples."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowland.data import Batches, Split
from lowland.energy import view_module


class ImageClassifier(nn.Module):
    """A small convolutional classifier of images (B, C, H, W) into K classes; `probabilities` gives
    (B, K).
    """

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        stride = 2 if shape[1] >= 16 else 1
        self.net = nn.Sequential(
            nn.Conv2d(shape[0], 32, 3, stride=stride, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(8) if shape[1] > 32 else nn.Identity(),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.LazyLinear(128),
            nn.ReLU(),
            nn.Linear(128, classes),
        )
        self.net(torch.zeros(1, *shape))  # sizes the lazy layers
        self.float()  # as images are, whatever torch's default

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """Return the inputs (N, 128) of the last layer at images (N, C, H, W), in eval mode;
        computed on the classifier's device, returned on that of the images.
        """
        body = view_module(self, constant=True, training=False).net[:-1]
        device = next(self.parameters()).device
        return torch.cat([body(part.to(device)) for part in x.split(1024)]).to(x.device)

    @torch.no_grad()
    def probabilities(self, x: Tensor) -> Tensor:
        """Return class probabilities (N, K) of images (N, C, H, W), in eval mode; computed on the
        classifier's device, returned on that of the images.
        """
        view = view_module(self, constant=True, training=False)
        device = next(self.parameters()).device
        found = torch.cat([view(part.to(device)).softmax(1) for part in x.split(1024)])
        return found.to(x.device)


@contextmanager
def _keep_draws(device: torch.device) -> Iterator[None]:
    """Leave torch's own generators, those of the CPU and of a device, as they were."""
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        if device.type == "mps":
            stack.callback(torch.mps.set_rng_state, torch.mps.get_rng_state())
        elif device.type != "cpu":
            stack.enter_context(torch.random.fork_rng(devices=[device], device_type=device.type))
        yield


def train_classifier(
    train: Split,
    classes: int,
    *,
    steps: int = 600,
    seed: int = 0,
    device: torch.device | None = None,
) -> ImageClassifier:
    """Train a classifier on labelled images by cross-entropy (Adam, batch 128, one cosine cycle);
    draws are its own.

    device: where it is trained and stays; where the images are unless given. Raises ValueError
    without labels.
    """
    device = device or train.x.device
    if train.y is None:
        raise ValueError(
            "the images have no labels; a classifier needs them; choose a labelled set or "
            "classifier_steps = 0"
        )
    with _keep_draws(device):
        torch.manual_seed(seed)
        model = ImageClassifier(tuple(train.x.shape[1:]), classes).to(device)
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        cycle = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        batches = Batches(train, seed=seed, device=device)
        for _ in range(steps):
            x, y = batches.next(128)
            assert y is not None
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            batches.prepare(128)
            cycle.step()
    return model.eval()

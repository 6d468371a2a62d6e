"""Small networks of every kind that layers come in, and a problem with each."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from upweight import Problem


class Twice(nn.Module):
    """One linear layer used twice, and once more by its weight's transpose if `loose`."""

    def __init__(self, loose: bool = False):
        super().__init__()
        self.layer, self.head, self.loose = nn.Linear(4, 4), nn.Linear(4, 3), loose

    def forward(self, x):
        h = torch.tanh(self.layer(torch.tanh(self.layer(x))))
        return self.head(h @ self.layer.weight if self.loose else h)


class Words(nn.Module):
    """Sequences through an embedding with padding, a norm and a head tied to the embedding."""

    def __init__(self, tied: bool):
        super().__init__()
        self.embedding = nn.Embedding(7, 4, padding_idx=None if tied else 0)
        self.norm, self.mix, self.head = nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 7, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, words):
        return self.head(self.norm(torch.tanh(self.mix(self.embedding(words)))).mean(1))


class Choices(nn.Module):
    """Every example has choices, which are folded into the batch; all share the positions of their words."""

    def __init__(self):
        super().__init__()
        self.words, self.places, self.head = (
            nn.Embedding(7, 4),
            nn.Embedding(3, 4),
            nn.Linear(4, 1, bias=False),
        )

    def forward(self, words):
        folded = words.view(-1, 3, 3).flatten(0, 1)
        h = self.words(folded) + self.places(torch.arange(3, device=words.device)[None])
        return self.head(torch.tanh(h).mean(1)).view(len(words), 3)


class Places(nn.Module):
    """Positions looked up once for all texts in one dimension; words of all texts one after the other if `flat`."""

    def __init__(self, flat: bool = False):
        super().__init__()
        self.words, self.places = nn.Embedding(7, 4), nn.Embedding(6, 4)
        self.norm, self.mix, self.head, self.flat = nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 3), flat

    def forward(self, words):
        h = self.words(words) + self.places(torch.arange(words.shape[1], device=words.device))
        inside = h.reshape(-1, 4) if self.flat else h
        h = h + torch.tanh(self.mix(self.norm(inside))).view(h.shape)
        return self.head(h.mean(1))


class Windows(nn.Module):
    """Windows of all images one after the other, through a convolution and norms of channels."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.batch = nn.Conv1d(2, 4, 2), nn.GroupNorm(2, 4), nn.BatchNorm1d(4)
        self.head = nn.Linear(8, 3)
        for value, most in ((self.batch.running_mean, 1.0), (self.batch.running_var, 2.0)):
            nn.init.uniform_(value, 0.5, most)  # type: ignore[arg-type]

    def forward(self, x):
        windows = x.view(len(x), 2, 2, 3).transpose(1, 2).reshape(-1, 2, 3)
        h = self.batch(torch.tanh(self.norm(self.conv(windows))))
        return self.head(h.mean(2).view(len(x), 8))


class TimeFirst(nn.Module):
    """A layer that sees (time, example, feature)."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.layer(x.transpose(0, 1))).sum(0))


class Branches(nn.Module):
    """Control flow by the data: only a loop over examples can do it."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.head = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        branch = self.left if x.sum(1).item() > 0 else self.right
        return self.head(torch.tanh(branch(x)))


class Patch(nn.Module):
    """Convolutions of every kind."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2, padding=1),
            nn.Tanh(),
            nn.Conv2d(4, 6, 2, groups=2, dilation=2, padding="same", padding_mode="circular", bias=False),
            nn.GroupNorm(2, 6),
            nn.Conv2d(6, 3, 1),
        )

    def forward(self, x):
        return self.body(x).mean((2, 3))


class Signal(nn.Module):
    """A one-dimensional convolution and a scale that no layer holds."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv1d(2, 3, 3, stride=2, padding=1, groups=1), nn.Linear(9, 3)
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return self.scale * self.head(torch.relu(self.conv(x)).flatten(1))


MODELS: dict[str, Any] = {
    "mlp": lambda: (nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3, bias=False)), (4,)),
    "twice": lambda: (Twice(), (4,)),
    "loose": lambda: (Twice(loose=True), (4,)),
    "sequence": lambda: (nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(15, 3)), (5, 4)),
    "time first": lambda: (TimeFirst(), (5, 4)),
    "branches": lambda: (Branches(), (4,)),
    "patch": lambda: (Patch(), (2, 7, 7)),
    "signal": lambda: (Signal(), (2, 6)),
    "words": lambda: (Words(tied=False), "words"),
    "choices": lambda: (Choices(), "choices"),
    "tied": lambda: (Words(tied=True), "words"),
    "places": lambda: (Places(), "words"),
    "flat": lambda: (Places(flat=True), "words"),
    "windows": lambda: (Windows(), (2, 6)),
}


def problem_of(name: str, n: int = 20, device: str = "cpu", **settings) -> Problem:
    torch.manual_seed(3)
    model, shape = MODELS[name]()
    words = {"words": 6, "choices": 9}
    X = torch.randint(0, 7, (n, words[shape])) if shape in words else torch.randn(n, *shape).double()
    settings = {"l2": 0.02, "weights": torch.rand(n).double() + 0.5, **settings}
    loss = settings.pop("loss", F.cross_entropy)
    return Problem(model.double().eval().to(device), loss, (X, torch.randint(0, 3, (n,))), **settings)

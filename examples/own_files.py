"""A ProtoNet loop in plain torch on named files, a tenth of them in the wrong folder; `metafluence score` finds them.

`python examples/own_files.py FOLDER` records the loop in FOLDER/run and prints the command that scores its files.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import metafluence as mf

WAYS, SHOTS, QUERIES, BATCH, FILES = 3, 5, 5, 4, 20
PARTS = ("support_x", "support_y", "query_x", "query_y")
Episode = tuple[Tensor, Tensor, Tensor, Tensor, list[str], list[str]]


def folders(first: int, wrong: float) -> dict[str, dict[str, Tensor]]:
    """FILES pictures of each digit from number `first` on, by folder and name; a share of them show another digit."""
    images, labels = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
    images = images.double().reshape(-1, 1, 8, 8) / 16
    found: dict[str, dict[str, Tensor]] = {}
    for digit in range(10):
        mine, others = images[labels == digit][first:], images[labels == (digit + 1) % 10][first + FILES :]
        swapped = round(wrong * FILES)
        found[str(digit)] = {
            f"{digit}/{i}{'-wrong' if i < swapped else ''}.png": (others if i < swapped else mine)[i]
            for i in range(FILES)
        }
    return found


def episodes(files: dict[str, dict[str, Tensor]], generator: torch.Generator) -> Iterator[Episode]:
    """New episodes for ever, with the names of their files."""
    while True:
        names: tuple[list[str], list[str]] = ([], [])
        for digit in torch.randperm(10, generator=generator)[:WAYS].tolist():
            own = list(files[str(digit)])
            drawn = [own[i] for i in torch.randperm(FILES, generator=generator)[: SHOTS + QUERIES].tolist()]
            names[0].extend(drawn[:SHOTS])
            names[1].extend(drawn[SHOTS:])
        x = [torch.stack([files[name.split("/")[0]][name] for name in half]) for half in names]
        y = [torch.arange(WAYS).repeat_interleave(count) for count in (SHOTS, QUERIES)]
        yield x[0], y[0], x[1], y[1], *names


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(72, 16)).double()


def proto_loss(model: nn.Module, episode: Episode) -> Tensor:
    support_x, support_y, query_x, query_y, *_ = episode
    features = model(support_x)
    prototypes = torch.stack([features[support_y == c].mean(dim=0) for c in range(WAYS)])
    return nn.functional.cross_entropy(-torch.cdist(model(query_x), prototypes).square(), query_y)


def learner() -> mf.MetaLearner:
    """What the loop does, for `metafluence score --learner own_files.py:learner`."""
    return mf.build("learner", "protonet", backbone=network())


def train(folder: Path, steps: int) -> None:
    torch.manual_seed(0)
    model = network()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    recorder = mf.record(folder / "run", mf.build("learner", "protonet", backbone=model), optimiser)
    drawn = episodes(folders(first=0, wrong=0.1), torch.Generator().manual_seed(0))
    for _ in range(steps):
        batch = [next(drawn) for _ in range(BATCH)]
        with recorder.step(batch):
            loss = torch.stack([proto_loss(model, episode) for episode in batch]).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        schedule.step()
    recorder.finish()
    new = episodes(folders(first=60, wrong=0.0), torch.Generator().manual_seed(1))
    stacked = [torch.stack(part).numpy() for part in zip(*(next(new)[:4] for _ in range(40)), strict=True)]
    np.savez(folder / "validation.npz", **dict(zip(PARTS, stacked, strict=True)))


if __name__ == "__main__":
    place = Path(sys.argv[1])
    train(place, steps=200)
    print(f"metafluence score {place}/run --learner {__file__}:learner --targets {place}/validation.npz --level image")

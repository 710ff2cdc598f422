"""A small training loop of one's own, on pictures of a few files, that tests of several rooms record."""

from pathlib import Path

import torch
from torch import Tensor, nn

import metafluence as mf

WAYS, EACH = 2, 6  # classes of a task; files of a class
WRONG = "a/0.png"
Episode = tuple[Tensor, Tensor, Tensor, Tensor, list[str], list[str]]


def pictures() -> dict[str, Tensor]:
    """Three classes of files, 4 x 4 pixels; WRONG shows another class than its folder says."""
    generator = torch.Generator().manual_seed(0)
    means = torch.rand(3, 1, 4, 4, generator=generator, dtype=torch.float64)
    noise = torch.rand(3, EACH, 1, 4, 4, generator=generator, dtype=torch.float64)
    files = {f"{'abc'[c]}/{i}.png": (means[c] + 0.5 * noise[c, i]) / 1.5 for c in range(3) for i in range(EACH)}
    return {**files, WRONG: files["b/0.png"]}


def episode(files: dict[str, Tensor], generator: torch.Generator) -> Episode:
    """Two classes, two support and two query instances of each."""
    names = []
    for c in torch.randperm(3, generator=generator)[:WAYS].tolist():
        names.append([f"{'abc'[c]}/{i}.png" for i in torch.randperm(EACH, generator=generator)[:4].tolist()])
    support, query = ([name for own in names for name in own[part]] for part in (slice(0, 2), slice(2, 4)))
    x = [torch.stack([files[name] for name in half]) for half in (support, query)]
    y = torch.arange(WAYS).repeat_interleave(2)
    return x[0], y, x[1], y, support, query


def module() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Tanh()).double()


def learner() -> mf.MetaLearner:
    """What the loop does, as a file of one's own says it."""
    return mf.build("learner", "protonet", backbone=module())


def loss(model: nn.Module, one: Episode) -> Tensor:
    features = model(one[0])
    prototypes = torch.stack([features[one[1] == c].mean(dim=0) for c in range(WAYS)])
    return nn.functional.cross_entropy(-torch.cdist(model(one[2]), prototypes).square(), one[3])


def recorded(folder: Path, steps: int = 4, named: bool = True, summed: bool = False) -> mf.TrainingRun:
    """Three fresh episodes a step, by SGD; summed: the loop's loss is the sum of theirs."""
    model, files, generator = module(), pictures(), torch.Generator().manual_seed(1)
    sgd = torch.optim.SGD(model.parameters(), lr=0.2)
    described = {"every": 2, "reduction": "sum" if summed else "mean"}
    recorder = mf.record(folder, mf.build("learner", "protonet", backbone=model), sgd, **described)
    for _ in range(steps):
        batch = [episode(files, generator) for _ in range(3)]
        with recorder.step(batch if named else [one[:4] for one in batch]):
            sgd.zero_grad()
            losses = torch.stack([loss(model, one) for one in batch])
            (losses.sum() if summed else losses.mean()).backward()
            sgd.step()
    return recorder.finish()


def validation() -> tuple[Tensor, ...]:
    """Three new episodes without the wrong file, stacked."""
    files, generator = {**pictures(), WRONG: pictures()["a/1.png"]}, torch.Generator().manual_seed(2)
    drawn = [episode(files, generator)[:4] for _ in range(3)]
    return tuple(torch.stack(part) for part in zip(*drawn, strict=True))

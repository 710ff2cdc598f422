"""A MAML loop in plain torch on fresh digit episodes, recorded and scored: the lines marked (+) are all that is added.

One in eight episodes has shuffled query labels. `python examples/own_loop.py` takes half a minute.
"""

import tempfile
from collections.abc import Iterator

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.func import functional_call

import metafluence as mf

WAYS, SHOTS, QUERIES, RATE, BATCH = 3, 2, 5, 0.4, 4
Episode = tuple[Tensor, Tensor, Tensor, Tensor]


def episodes(generator: torch.Generator) -> Iterator[tuple[Episode, bool]]:
    """New episodes for ever, and whether the query labels were shuffled."""
    images, labels = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
    images = images.float().reshape(-1, 1, 8, 8) / 16
    while True:
        drawn = []
        for digit in torch.randperm(10, generator=generator)[:WAYS]:
            own = (labels == digit).nonzero().squeeze(1)
            drawn.append(own[torch.randperm(len(own), generator=generator)[: SHOTS + QUERIES]])
        support, query = torch.stack(drawn).split([SHOTS, QUERIES], dim=1)
        right = torch.arange(WAYS).repeat_interleave(QUERIES)
        wrong = bool(torch.rand((), generator=generator) < 1 / 8)
        given = right[torch.randperm(len(right), generator=generator)] if wrong else right
        classes = torch.arange(WAYS).repeat_interleave(SHOTS)
        yield (images[support.flatten()], classes, images[query.flatten()], given), wrong


def maml_loss(model: nn.Module, episode: Episode) -> Tensor:
    support_x, support_y, query_x, query_y = episode
    adapted: dict[str, Tensor] = dict(model.named_parameters())
    loss = nn.functional.cross_entropy(functional_call(model, adapted, support_x), support_y)
    gradients = torch.autograd.grad(loss, tuple(adapted.values()), create_graph=True)
    adapted = {name: p - RATE * g for (name, p), g in zip(adapted.items(), gradients, strict=True)}
    return nn.functional.cross_entropy(functional_call(model, adapted, query_x), query_y)


def train(folder: str, steps: int) -> tuple[nn.Module, mf.TrainingRun, Tensor]:
    """The model, its run, and which episodes are wrong."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(72, WAYS))
    model, stream = nn.Sequential(*layers), episodes(torch.Generator().manual_seed(1))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    learner = mf.build("learner", "maml", backbone=model, steps=1, rate=RATE)  # (+) what the loop does with an episode
    recorder = mf.record(folder, learner, optimiser)  # (+)
    wrong = []
    for _ in range(steps):
        batch, shuffled = zip(*(next(stream) for _ in range(BATCH)), strict=True)
        with recorder.step(batch):  # (+)
            loss = torch.stack([maml_loss(model, episode) for episode in batch]).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        schedule.step()
        wrong += shuffled
    return model, recorder.finish(), torch.tensor(wrong)  # (+)


def new_targets(run: mf.TrainingRun, count: int) -> mf.Targets:
    """The loss after adaptation to new episodes with right labels, at the end of the run."""
    stream = episodes(torch.Generator().manual_seed(2))
    clean = [episode for episode, wrong in (next(stream) for _ in range(2 * count)) if not wrong][:count]
    parts = [torch.stack(part) for part in zip(*clean, strict=True)]
    tasks = mf.TaskSet(mf.Batch(*parts[:2]), mf.Batch(*parts[2:]), tuple(f"new-{i}" for i in range(count)))
    return mf.Targets(run.problem, tasks, run.final)


def score(run: mf.TrainingRun, targets: mf.Targets, method: str) -> Tensor:
    """A score of each episode that was trained on, [N]: positive if it helps."""
    context = mf.Context(run.problem.at(run.final), run=run)
    return mf.attribute(mf.build("method", method), context, targets).values[:, 0]


def main(steps: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        _, recorded, wrong = train(place, steps)
        run = mf.remade_run(recorded)  # whose replays are exact
    targets = new_targets(run, count=20)
    for method in ("run-influence", "loss"):
        lowest, *_, highest = score(run, targets, method).argsort().tensor_split(10)
        sets = [tuple(lowest.tolist()), tuple(highest.tolist())]
        low, high = mf.replayed(run, sets, targets).loss_change[:, 0].tolist()
        print(f"{method}: {wrong[lowest].float().mean():.0%} of the lowest tenth are shuffled. Without the lowest")
        print(f"tenth the loss at the end of the run changes by {low:+.3f}, without the highest by {high:+.3f}.")


if __name__ == "__main__":
    main(steps=150)

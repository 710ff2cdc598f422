"""What the three Omniglot loops share: files in folders, a tenth of them in a wrong one; episodes; the evaluation."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import metafluence as mf

TRAIN, VALIDATION, TEST = 0, 1, 2  # the published parts of Omniglot's classes
LEFT_OUT = 1 / 40  # of the images
CLASSES = 172  # of each of the two parts that a model is judged on
Episode = tuple[Tensor, Tensor, Tensor, Tensor, list[str], list[str]]


@dataclass(frozen=True)
class Files:
    """folders: images [1, 28, 28] by name, in the folder of the class that they are taken for."""

    folders: list[dict[str, Tensor]]

    def episode(self, ways: int, shots: int, queries: int, generator: torch.Generator) -> Episode:
        """Support inputs and classes, query inputs and classes, support names, query names."""
        support: list[tuple[str, Tensor]] = []
        query: list[tuple[str, Tensor]] = []
        for c in torch.randperm(len(self.folders), generator=generator)[:ways].tolist():
            own = list(self.folders[c].items())
            drawn = [own[i] for i in torch.randperm(len(own), generator=generator)[: shots + queries].tolist()]
            support += drawn[:shots]
            query += drawn[shots:]
        x = [torch.stack([image for _, image in half]) for half in (support, query)]
        y = [torch.arange(ways).repeat_interleave(count) for count in (shots, queries)]
        return x[0], y[0], x[1], y[1], [name for name, _ in support], [name for name, _ in query]

    def tasks(self, count: int, ways: int, shots: int, queries: int) -> mf.TaskSet:
        """Episodes to judge a model by."""
        generator = torch.Generator().manual_seed(count)
        drawn = [self.episode(ways, shots, queries, generator)[:4] for _ in range(count)]
        parts = [torch.stack(part) for part in zip(*drawn, strict=True)]
        return mf.TaskSet(mf.Batch(*parts[:2]), mf.Batch(*parts[2:]), tuple(f"new-{i}" for i in range(count)))


@cache
def omniglot() -> mf.Labelled:
    return mf.build("dataset", "omniglot").load()


def read_files(part: int, classes: int, images: int = 10, wrong: float = 0.0) -> Files:
    """Some images of some classes; a share of each folder's is replaced by as many of the next class, as `-wrong`."""
    data = omniglot()
    chosen = torch.randperm(len(data.splits[part]), generator=torch.Generator().manual_seed(part))[:classes]
    numbers = [data.splits[part][i] for i in chosen.tolist()]
    swapped, folders = round(wrong * images), []
    for c, following in zip(numbers, [*numbers[1:], numbers[0]], strict=True):
        own, others = ((data.labels == label).nonzero().squeeze(1) for label in (c, following))
        taken = torch.cat([others[images : images + swapped], own[swapped:images]])
        names = [f"{data.classes[c]}/{i:02}{'-wrong' if i < swapped else ''}.png" for i in range(images)]
        folders.append(dict(zip(names, data.draw(taken, torch.float32), strict=True)))
    return Files(folders)


def conv4(width: int, outputs: int | None = None) -> nn.Sequential:
    """The usual four blocks, but SiLU and average pooling for ReLU and max pooling, and He's start: with kinks, runs on
    Omniglot are not predicted (docs/runs.md, "What was tried on Omniglot")."""
    layers: list[nn.Module] = []
    for depth in (1, width, width, width):
        layers += [nn.Conv2d(depth, width, 3, padding=1), nn.BatchNorm2d(width), nn.SiLU(), nn.AvgPool2d(2)]
        nn.init.kaiming_normal_(layers[-4].weight)
    return nn.Sequential(*layers, nn.Flatten(), *([] if outputs is None else [nn.Linear(width, outputs)]))


class Unrecorded:
    """In the place of mf.record: the loop alone."""

    def __init__(self, *_: Any) -> None: ...

    def step(self, batch: Any) -> Any:
        return nullcontext()

    def finish(self) -> Any: ...


class Clock:
    """In the place of mf.record: a recorder, and the processor seconds that it takes at each step."""

    def __call__(self, *given: Any) -> "Clock":
        self.recorder, self.seconds = mf.record(*given), []
        return self

    @contextmanager
    def step(self, batch: Any) -> Iterator[None]:
        start = time.process_time()
        with self.recorder.step(batch):
            inside = time.process_time()
            yield
            left = time.process_time()
        self.seconds.append(inside - start + time.process_time() - left)

    def finish(self) -> mf.TrainingRun:
        return self.recorder.finish()


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """A result, and the processor seconds that it took."""
    start = time.process_time()
    return work(), time.process_time() - start


def report(name: str, train: Callable[[Path, Any], mf.TrainingRun], judged: tuple[int, int, int, int]) -> None:
    """Train with and without a recorder, score all levels, leave out images, and print what was found.

    train: records the loop in a folder with a recorder. judged: how many tasks of new classes, their ways, shots
    and queries.
    """
    _, alone = timed(lambda: train(Path(), Unrecorded))
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        recorded = train(Path(folder), clock)
        run, anew = timed(lambda: mf.remade_run(recorded))  # whose replays are exact
    targets = mf.Targets(run.problem, read_files(VALIDATION, CLASSES).tasks(*judged), run.final)
    unseen = run.problem.over(read_files(TEST, CLASSES).tasks(*judged))
    context = mf.Context(run.problem.at(run.final), run=run)
    swept, sweep = timed(lambda: mf.attribute_levels(mf.build("method", "run-influence"), context, targets))
    influence = {level: scores.values[:, 0] for level, scores in swept.items()}
    loss, by_loss = timed(lambda: loss_scores(run, targets))
    origins = run.problem.tasks.origins
    wrong = torch.tensor(["-wrong" in image for image in origins.images])
    first = round(LEFT_OUT * len(wrong))
    draw = torch.randperm(len(wrong), generator=torch.Generator().manual_seed(0))
    sets = {
        "nothing": (),
        f"{first} by run-influence": tuple(influence["image"].argsort()[:first].tolist()),
        f"{first} by loss": tuple(loss["image"].argsort()[:first].tolist()),
        f"{first} at random": tuple(draw[:first].tolist()),
        f"all {int(wrong.sum())} wrong ones": tuple(wrong.nonzero().flatten().tolist()),
    }
    ends = run.final.unsqueeze(1) + mf.replayed(run, list(sets.values()), targets, "image").change
    qualities = [mf.validate(unseen, meta).accuracy for meta in ends.T]
    print(f"{name}: accuracy {qualities[0]:.3f} on {judged[0]} tasks of unseen classes.")
    for method, values in (("run-influence", influence["image"]), ("loss", loss["image"])):
        found = mf.detection(values.numpy(), wrong.numpy())
        share = wrong[values.argsort()[:first]].float().mean()
        print(f"{method}: AUROC of the wrong images {found.auroc:.3f}, {share:.0%} of the first {first} are wrong.")
    print("Replayed without        target loss  accuracy")
    for (what, _), meta, quality in zip(sets.items(), ends.T, qualities, strict=True):
        print(f"{what:24}{float(targets.losses(meta)[0]):11.4f}{quality:10.3f}")
    notes = float(torch.tensor(clock.seconds).median() * len(clock.seconds))
    checks = sum(clock.seconds) - notes
    print(
        f"The loop alone takes {alone:.0f} s of processor time. In trainings: recording {notes / alone:.3f}, checks "
        f"{checks / alone:.2f}, run made anew {anew / alone:.1f}, sweep for all levels {sweep / alone:.1f}, loss "
        f"{by_loss / alone:.2f}."
    )
    for level in ("task", "support", "query", "class"):
        for method, values, units in (("run-influence", influence, "loss_change"), ("loss", loss, "rank_only")):
            found = mf.RunScores(run.problem.tasks, level, values[level], units, judged[0], float(targets.losses()))
            print(f"{level}, lowest by {method}: {', '.join(row[1] for row in mf.ends_table(found, 3).rows)}")


def loss_scores(run: mf.TrainingRun, targets: mf.Targets) -> dict[mf.Level, Tensor]:
    context = mf.Context(run.problem.at(run.final), run=run)
    scores = mf.attribute_levels(mf.build("method", "loss"), context, targets)
    return {level: found.values[:, 0] for level, found in scores.items()}

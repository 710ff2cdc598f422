"""ProtoNet on files of Omniglot, trained 30-way, used 5-way, in plain torch; recorded by the lines marked (+), scored.

`METAFLUENCE_DATA=FOLDER python examples/omniglot_protonet.py`; FOLDER has Omniglot (docs/data.md).
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omniglot_files import TRAIN, Episode, Files, conv4, read_files, report
from torch import Tensor, nn

import metafluence as mf

TRAIN_WAYS, WAYS, SHOTS, QUERIES, RATE, STEP_SIZE = 30, 5, 3, 5, 1e-3, 100


class PrototypicalNetwork(nn.Module):
    """Scores of queries from a support set."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def process_support_set(self, images: Tensor, labels: Tensor) -> None:
        features = self.encoder(images)
        self.prototypes = torch.stack([features[labels == label].mean(dim=0) for label in labels.unique()])

    def forward(self, queries: Tensor) -> Tensor:
        return -(torch.cdist(self.encoder(queries), self.prototypes) ** 2)


def sampler(files: Files, episodes: int) -> Iterator[Episode]:
    draw = torch.Generator().manual_seed(1)
    for _ in range(episodes):
        yield files.episode(min(TRAIN_WAYS, len(files.folders)), SHOTS, QUERIES, draw)


def train(files: Files, steps: int, width: int, folder: Path, record: Callable[..., Any] = mf.record) -> Any:
    torch.manual_seed(0)
    model = PrototypicalNetwork(conv4(width))
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=STEP_SIZE, gamma=0.5)
    learner = mf.build("learner", "protonet", backbone=mf.per_task_norms(model.encoder))  # (+)
    recorder = record(folder, learner, optimizer)  # (+)
    for episode in sampler(files, steps):
        support_images, support_labels, query_images, query_labels, *_ = episode
        with recorder.step([episode]):  # (+)
            optimizer.zero_grad()
            model.process_support_set(support_images, support_labels)
            loss = nn.functional.cross_entropy(model(query_images), query_labels)
            loss.backward()
            optimizer.step()
        scheduler.step()
    return recorder.finish()  # (+)


def main(steps: int = 200, width: int = 16, classes: int = 200, images: int = 10, tasks: int = 100) -> None:
    files = read_files(TRAIN, classes, images, wrong=0.1)
    report("ProtoNet", partial(train, files, steps, width), (tasks, WAYS, SHOTS, QUERIES))


if __name__ == "__main__":
    main()

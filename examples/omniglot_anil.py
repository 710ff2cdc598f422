"""ANIL with a learned inner rate on files of Omniglot, in plain torch; recorded by the lines marked (+), and scored.

`METAFLUENCE_DATA=FOLDER python examples/omniglot_anil.py`; FOLDER has Omniglot (docs/data.md).
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omniglot_files import TRAIN, Episode, Files, conv4, read_files, report
from torch import Tensor, nn

import metafluence as mf

WAYS, SHOTS, QUERIES, BATCH, ADAPTATION_STEPS, FAST_RATE, META_RATE = 5, 3, 5, 4, 5, 0.5, 3e-3


def fast_adapt(episode: Episode, features: nn.Module, head: nn.Linear, log_rate: Tensor) -> Tensor:
    """The loss of a task after some steps of its head."""
    adaptation_data, adaptation_labels, evaluation_data, evaluation_labels, *_ = episode
    adaptation_data, evaluation_data = features(adaptation_data), features(evaluation_data)
    weight, bias = head.weight, head.bias
    for _ in range(ADAPTATION_STEPS):
        error = nn.functional.cross_entropy(nn.functional.linear(adaptation_data, weight, bias), adaptation_labels)
        by_weight, by_bias = torch.autograd.grad(error, (weight, bias), create_graph=True)
        weight = weight - FAST_RATE * log_rate.exp() * by_weight
        bias = bias - FAST_RATE * log_rate.exp() * by_bias
    return nn.functional.cross_entropy(nn.functional.linear(evaluation_data, weight, bias), evaluation_labels)


def train(files: Files, steps: int, width: int, folder: Path, record: Callable[..., Any] = mf.record) -> Any:
    torch.manual_seed(0)
    draw = torch.Generator().manual_seed(1)
    features, head, log_rate = conv4(width), nn.Linear(width, WAYS), nn.Parameter(torch.zeros(()))
    all_parameters = [*features.parameters(), *head.parameters(), log_rate]
    optimizer = torch.optim.Adam(all_parameters, lr=META_RATE)
    described = {"steps": ADAPTATION_STEPS, "rate": FAST_RATE, "learn_rates": "one"}
    learner = mf.build("learner", "anil", backbone=mf.per_task_norms(features), **described)  # (+)
    recorder = record(folder, learner, optimizer)  # (+)
    for _ in range(steps):
        episodes = [files.episode(WAYS, SHOTS, QUERIES, draw) for _ in range(BATCH)]
        with recorder.step(episodes):  # (+)
            optimizer.zero_grad()
            for episode in episodes:
                evaluation_error = fast_adapt(episode, features, head, log_rate)
                evaluation_error.backward()
            for p in all_parameters:
                p.grad.data.mul_(1.0 / BATCH)
            optimizer.step()
    return recorder.finish()  # (+)


def main(steps: int = 200, width: int = 16, classes: int = 200, images: int = 10, tasks: int = 100) -> None:
    files = read_files(TRAIN, classes, images, wrong=0.1)
    report("ANIL", partial(train, files, steps, width), (tasks, WAYS, SHOTS, QUERIES))


if __name__ == "__main__":
    main()

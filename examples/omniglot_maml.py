"""MAML with conv4 and batch norm on files of Omniglot, in plain torch; recorded by the lines marked (+), scored.

`METAFLUENCE_DATA=FOLDER python examples/omniglot_maml.py`; FOLDER has Omniglot (docs/data.md).
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omniglot_files import TRAIN, Episode, Files, conv4, read_files, report
from torch import Tensor, nn
from torch.func import functional_call

import metafluence as mf

WAYS, SHOTS, QUERIES, BATCH, INNER_RATE, META_RATE = 5, 3, 5, 4, 0.4, 1e-3


class Meta:
    """The network, its inner step, and its outer step."""

    def __init__(self, width: int) -> None:
        self.net = conv4(width, WAYS)
        self.meta_optim = torch.optim.Adam(self.net.parameters(), lr=META_RATE)

    def query_loss(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor) -> Tensor:
        weights = dict(self.net.named_parameters())
        loss = nn.functional.cross_entropy(functional_call(self.net, weights, (support_x,)), support_y)
        gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        fast = {name: p - INNER_RATE * g for (name, p), g in zip(weights.items(), gradients, strict=True)}
        return nn.functional.cross_entropy(functional_call(self.net, fast, (query_x,)), query_y)

    def update(self, episodes: list[Episode]) -> None:
        losses_q = 0.0
        for support_x, support_y, query_x, query_y, *_ in episodes:
            losses_q = losses_q + self.query_loss(support_x, support_y, query_x, query_y)
        loss_q = losses_q / len(episodes)
        self.meta_optim.zero_grad()
        loss_q.backward()
        self.meta_optim.step()


def train(files: Files, steps: int, width: int, folder: Path, record: Callable[..., Any] = mf.record) -> Any:
    torch.manual_seed(0)
    draw = torch.Generator().manual_seed(1)
    meta = Meta(width)
    learner = mf.build("learner", "maml", backbone=meta.net, steps=1, rate=INNER_RATE)  # (+)
    recorder = record(folder, learner, meta.meta_optim)  # (+)
    for _ in range(steps):
        episodes = [files.episode(WAYS, SHOTS, QUERIES, draw) for _ in range(BATCH)]
        with recorder.step(episodes):  # (+)
            meta.update(episodes)
    return recorder.finish()  # (+)


def main(steps: int = 200, width: int = 16, classes: int = 200, images: int = 10, tasks: int = 100) -> None:
    files = read_files(TRAIN, classes, images, wrong=0.1)
    report("MAML", partial(train, files, steps, width), (tasks, WAYS, SHOTS, QUERIES))


if __name__ == "__main__":
    main()

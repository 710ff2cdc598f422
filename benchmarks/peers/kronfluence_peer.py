"""kronfluence: TracIn (its strategy `identity`) and EK-FAC with the sampled and with the empirical Fisher."""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from problem import L2, Single
from torch import Tensor, nn
from torch.utils.data import TensorDataset


class _Classification(Task):
    """Losses are sums over the batch, as the library asks; `sample` draws labels from the predictions."""

    def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
        logits = model(batch[0])
        labels = torch.distributions.Categorical(logits=logits.detach()).sample() if sample else batch[1]
        return nn.functional.cross_entropy(logits, labels, reduction="sum")

    def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="sum")


def methods(single: Single, batch_size: int = 250) -> dict[str, Callable[[], Tensor]]:
    logging.disable(logging.WARNING)
    train = TensorDataset(single.inputs, single.labels)
    targets = TensorDataset(single.target_inputs, single.target_labels)
    task = _Classification()

    def scores(strategy: str, empirical: bool = False) -> Tensor:
        model = prepare_model(copy.deepcopy(single.module), task)
        with tempfile.TemporaryDirectory() as folder:
            analyzer = Analyzer("peer", model, task, cpu=True, disable_tqdm=True, output_dir=folder)
            factors = FactorArguments(strategy=strategy, use_empirical_fisher=empirical)
            analyzer.fit_all_factors("f", train, batch_size, factor_args=factors)
            analyzer.compute_pairwise_scores(
                "s", "f", targets, train, len(targets), per_device_train_batch_size=batch_size,
                score_args=ScoreArguments(damping_factor=L2),
            )  # fmt: skip
            return analyzer.load_pairwise_scores("s")["all_modules"].T

    return {
        "tracin": partial(scores, "identity"),
        "ek-fac, sampled": partial(scores, "ekfac"),
        "ek-fac, empirical": partial(scores, "ekfac", empirical=True),
    }

"""What to change so that a first order predicts a run: read off the network, its start, and the run's settings."""

from __future__ import annotations

import math
from statistics import median

import torch
from torch import nn

from metafluence.learners import NetworkLearner
from metafluence.networks import Norm
from metafluence.training import TrainingRun

HE = 0.6
"""Starting weights below this share of He's scale, √(2 / fan-in), are called small; torch's own default is at .41."""
NORMS = (Norm, nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.modules.instancenorm._InstanceNorm)


def run_advice(run: TrainingRun, kinks: tuple[str, ...]) -> str:
    """Changes that make runs smoother and that this one lacks, the one that helps most first, in a sentence.

    A weight before a norm has the effective rate rate / ‖w‖², so that small starting weights make large steps. Adam's
    first steps have the size of the rate however small a gradient is, unless the rate is warmed up or `eps_root` is
    above zero.
    """
    found = []
    if kinks:
        found.append(f"a network without kinks (smooth_twin; now: {', '.join(kinks[:3])})")
    scale = starting_scale(run)
    if scale < HE:
        found.append(f"starting weights before norms at He's scale (now at {scale:.2f} of it)")
    half = run.group_rates().amax(dim=0) / 2 if run.steps else torch.zeros(0)
    if run.steps and bool((run.group_rates()[0] > half).any()):
        found.append("a warmup of the learning rate")
    if run.steps and bool((run.group_rates()[-1] > half).any()):
        found.append("schedule: cosine")
    rules = (rule for rule, _ in run.rule.groups(len(run.peaks)))
    kinds = dict.fromkeys(type(rule).__name__ for rule in rules if getattr(rule, "eps_root", None) == 0)
    found += [f"eps_root above 0 in {kind.removesuffix('Step').lower()}" for kind in kinds]
    found += ["a lower learning rate", "larger batches", "a recording that starts later"]
    return f"What helps, in this order: {'; '.join(found)}."


def starting_scale(run: TrainingRun) -> float:
    """The median over weights of their standard deviation at the start over He's; NaN for a network without norms."""
    learner = run.problem.learner
    if not isinstance(learner, NetworkLearner):
        return math.nan
    network = learner.network
    if not any(isinstance(layer, NORMS) for layer in network.module.modules()):
        return math.nan
    start, found = run.state(0).meta, []
    for where in network.positions().values():
        if where.dim() >= 2 and len(where) > 1:
            weights = start[where.to(start.device)]
            found.append(float(weights.std()) / math.sqrt(2 / weights[0].numel()))
    return median(found) if found else math.nan

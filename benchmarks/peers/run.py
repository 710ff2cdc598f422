"""Influence scores of 1,000 training on 50 target instances: the cost and the accuracy of each library.

Cost is in passes: one loss and gradient over all training instances, timed right before and after each method, one
thread, seconds of the processor. Every method starts from the trained network only. Agreement is the Spearman
correlation with influence under the exact Gauss-Newton matrix (conjugate gradients to 1e-5), mean over targets.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import time
from collections.abc import Callable

import torch
from ours import exact
from problem import NETWORKS, TARGETS, TRAIN, Single, gradient_pass, make, seconds
from scipy.stats import spearmanr
from torch import Tensor

LIBRARIES = {
    "metafluence": "ours",
    "kronfluence": "kronfluence_peer",
    "dattri": "dattri_peer",
    "traker": "traker_peer",
    "curvlinops": "curvlinops_peer",
}


def agreement(found: Tensor, wanted: Tensor | None) -> float:
    if wanted is None:
        return float("nan")
    pairs = zip(found.detach()[:, : wanted.shape[1]].T, wanted.T, strict=True)
    return sum(float(spearmanr(a, b)[0]) for a, b in pairs) / wanted.shape[1]


def timed(work: Callable[[], Tensor], single: Single, repeats: int) -> tuple[float, Tensor]:
    """The cost of `work` in passes, the median over repeats, and what it computed."""
    costs, found = [], torch.empty(0)
    for _ in range(repeats):
        before = seconds(lambda: gradient_pass(single), 5)
        started = time.process_time()
        found = work()
        taken = time.process_time() - started
        costs.append(2 * taken / (before + seconds(lambda: gradient_pass(single), 5)))
    return statistics.median(costs), found


def report(library: str, single: Single, wanted: Tensor | None, methods: list[str] | None, repeats: int) -> None:
    try:
        found = importlib.import_module(LIBRARIES[library]).methods(single)
    except ImportError as error:
        print(f"  {library:<12} {error}")
        return
    for name in found if methods is None else [name for name in methods if name in found]:
        try:
            cost, scores = timed(found[name], single, repeats)
            assert scores.shape == (TRAIN, len(single.target_labels)), tuple(scores.shape)
            print(f"  {library:<12} {name:<18}{cost:>9.1f}{agreement(scores, wanted):>11.3f}", flush=True)
        except Exception as error:  # a peer that fails is a line, not the end
            print(f"  {library:<12} {name:<18} {type(error).__name__}: {str(error)[:90]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--methods", nargs="+", help="all, unless given")
    parser.add_argument("--columns", type=int, default=TARGETS, help="number of target instances")
    parser.add_argument("--targets", type=int, default=5, help="on how many of them agreement is measured; 0: not")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for network in options.networks:
        single = make(network, options.columns)
        base = seconds(lambda single=single: gradient_pass(single), 15)
        print(f"{network}: {single.size} parameters, one pass {1000 * base:.1f} ms")
        print(f"  {'library':<12} {'method':<18}{'passes':>9}{'agreement':>11}")
        wanted = exact(single, options.targets) if options.targets else None
        for library in LIBRARIES:
            report(library, single, wanted, options.methods, options.repeats)


if __name__ == "__main__":
    main()

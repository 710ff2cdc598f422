"""How much arithmetic our methods do, in passes: multiplications of all products and convolutions, over those of one
loss and gradient over all training instances. Unlike seconds it is the same on every machine, however busy.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from ours import methods
from problem import NETWORKS, gradient_pass, make
from torch.utils.flop_counter import FlopCounterMode


def work(done: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        done()
    return counter.get_total_flops()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=["conv4", "deep"], choices=list(NETWORKS))
    parser.add_argument("--methods", nargs="+", default=["tracin", "trak-512", "ek-fac", "ek-fac, sampled"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    for network in options.networks:
        single = make(network)
        unit, found = work(lambda single=single: gradient_pass(single)), methods(single)
        for name in options.methods:
            print(f"{network:<6} {name:<18}{work(found[name]) / unit:>8.2f} passes of arithmetic", flush=True)


if __name__ == "__main__":
    main()

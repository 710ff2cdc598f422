"""EK-FAC of 100 tasks of one network, each with its own parameters: a stack against a loop over tasks, in one run.

The time includes everything: the layers' inputs, the backward passes of the exact Fisher, the decompositions, and one
product with the inverse. Prints the median ratio of the loop's time to the stack's.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

import metafluence as mf
from metafluence import FlatModule, LayerStack, SoftmaxLoss, layered_loss

NETWORKS = {
    "mlp 64-32-5": ({"use": "mlp", "hidden": [32]}, (1, 8, 8)),
    "conv 8-8, 8x8": ({"use": "small-conv", "channels": [8, 8], "activation": "tanh"}, (1, 8, 8)),
    "conv 16-16, 14x14": ({"use": "small-conv", "channels": [16, 16], "activation": "tanh"}, (1, 14, 14)),
    "conv 16-16, 28x28": ({"use": "small-conv", "channels": [16, 16], "activation": "tanh"}, (1, 28, 28)),
}
TASKS, INSTANCES, CLASSES = 100, 25, 5


class Layered(mf.LinearOperator):
    """An operator of which only the layers are known."""

    tags = frozenset({mf.SYMMETRIC, mf.LAYERED})

    def __init__(self, stack: LayerStack, size: int, dtype: torch.dtype) -> None:
        self._stack, self.size, self.dtype = stack, size, dtype
        self.device, self.batch_shape = torch.device("cpu"), (stack.count,)

    @property
    def structure(self) -> LayerStack:
        return self._stack

    def matmat(self, columns: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    solver = mf.build("solver", "ek-fac")
    print(f"{TASKS} tasks, {INSTANCES} instances, {CLASSES} classes, {options.threads} thread(s)")
    print(f"{'network':<20}{'Q':>7}{'dtype':>9}{'stack s':>9}{'loop s':>8}{'ratio':>7}")
    for name, (backbone, shape) in NETWORKS.items():
        for dtype in (torch.float32, torch.float64):
            generator = torch.Generator().manual_seed(0)
            module = mf.default_registry().build("backbone", backbone).module(torch.Size(shape), CLASSES)
            network = FlatModule(module, dtype)
            flat = network.initial(generator) + 0.01 * torch.randn(TASKS, network.size, generator=generator).to(dtype)
            inputs = torch.randn(TASKS, INSTANCES, *shape, generator=generator).to(dtype)
            targets = torch.randint(CLASSES, (TASKS, INSTANCES), generator=generator)
            weights = torch.full((TASKS, INSTANCES), 1 / INSTANCES, dtype=dtype)
            rhs = torch.randn(TASKS, network.size, 1, generator=generator).to(dtype)

            def work(start: int, stop: int) -> torch.Tensor:
                def at(some: slice) -> mf.LayeredLoss:
                    part = slice(start + some.start, start + min(some.stop, stop - start))
                    parts = (flat[part], inputs[part], targets[part], weights[part])  # noqa: B023
                    return layered_loss(network, *parts, SoftmaxLoss(), 0.3)  # noqa: B023

                operator = Layered(LayerStack(stop - start, at), network.size, dtype)  # noqa: B023
                state = solver.prepare(operator, 0.1, torch.Generator().manual_seed(0))
                return solver.precondition(state, rhs[start:stop])  # noqa: B023

            work(0, 2)
            stacks, loops = [], []
            for _ in range(options.repeats):
                started = time.perf_counter()
                together = work(0, TASKS)
                middle = time.perf_counter()
                alone = torch.cat([work(i, i + 1) for i in range(TASKS)])
                stacks.append(middle - started)
                loops.append(time.perf_counter() - middle)
            assert torch.allclose(together, alone, rtol=1e-3, atol=1e-4)
            ratio = statistics.median(b / a for a, b in zip(stacks, loops, strict=True))
            kind = str(dtype).removeprefix("torch.")
            times = f"{statistics.median(stacks):>9.3f}{statistics.median(loops):>8.3f}"
            print(f"{name:<20}{network.size:>7}{kind:>9}{times}{ratio:>7.2f}", flush=True)


if __name__ == "__main__":
    main()

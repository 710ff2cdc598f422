"""The conformance suite of executors: `TestMine = executor_suite(MyExecutor())` in a test file of one's own."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from types import ModuleType
from typing import Any

import cloudpickle
import pytest
import torch
from torch import Tensor

from metafluence import Executor
from metafluence.testing.faults import Fault
from metafluence.testing.simple_suites import simple_faults, simple_suite


class Awkward(Exception):
    """One that cannot be made again from its message."""

    def __init__(self, item: int, reason: str) -> None:
        super().__init__(f"item {item}: {reason}")


def _cube(item: int) -> int:
    return item**3


def _solve(matrix: Tensor) -> Tensor:
    return torch.linalg.solve(matrix, torch.ones(len(matrix), dtype=matrix.dtype))


def _threads(item: int) -> int:
    return torch.get_num_threads()


def _unlucky(item: int) -> int:
    if item == 2:
        raise ValueError("two is bad luck")
    return item


def _awkward(item: int) -> int:
    raise Awkward(item, "as every other")


def check_once(executor: Executor, seed: int) -> None:
    """Every index comes once, with the result of its item: of none, one, and more than there are workers."""
    for count in (0, 1, 2, 9):
        items = list(range(3, 3 + count))
        found = list(executor.map(_cube, items, _silence))
        assert sorted(found) == [(i, item**3) for i, item in enumerate(items)], f"wrong for {count} items"


def check_tensors(executor: Executor, seed: int) -> None:
    """Tensors travel both ways without losing a bit."""
    generator = torch.Generator().manual_seed(0)
    matrices = [torch.randn(n, n, generator=generator, dtype=torch.float64) for n in (2, 3, 4)]
    found = dict(executor.map(_solve, matrices, _silence))
    assert all(torch.equal(found[i], _solve(matrix)) for i, matrix in enumerate(matrices))


def check_exception(executor: Executor, seed: int) -> None:
    """An exception of the function ends it, with its type and message; the next call knows nothing of it."""
    with pytest.raises(ValueError, match="two is bad luck"):
        list(executor.map(_unlucky, [0, 1, 2, 3], _silence))
    with pytest.raises(Exception, match=r"item [0-3]: as every other"):
        list(executor.map(_awkward, [0, 1, 2, 3], _silence))
    assert dict(executor.map(_cube, [1, 2], _silence)) == {0: 1, 1: 8}


def check_early_end(executor: Executor, seed: int) -> None:
    """One that takes a single result and goes leaves nothing behind that the next call sees."""
    found: Any = executor.map(_cube, list(range(9)), _silence)
    with closing(found):
        index, result = next(found)
        assert result == index**3
    assert dict(executor.map(_cube, [1, 2], _silence)) == {0: 1, 1: 8}


def check_own_file(executor: Executor, seed: int) -> None:
    """Functions, items and results of classes that no other process can import."""
    with _module_of_ones_own() as own:
        found = dict(executor.map(own.Double(3), [own.Number(i) for i in range(4)], _silence))
        assert [found[i].value for i in range(4)] == [0, 6, 12, 18]
        assert all(type(number) is own.Number for number in found.values())


def check_threads(executor: Executor, seed: int) -> None:
    """No worker has more of torch's threads than this process, whose number stays."""
    before = torch.get_num_threads()
    assert all(1 <= threads <= before for _, threads in executor.map(_threads, list(range(4)), _silence))
    assert torch.get_num_threads() == before


CHECKS = {
    "once": check_once,
    "tensors": check_tensors,
    "exception": check_exception,
    "early end": check_early_end,
    "own file": check_own_file,
    "threads": check_threads,
}

OWN = """
class Number:
    def __init__(self, value):
        self.value = value

class Double:
    def __init__(self, by):
        self.by = by
    def __call__(self, number):
        return Number(2 * self.by * number.value)
"""


@contextmanager
def _module_of_ones_own() -> Iterator[ModuleType]:
    """As a file named in a registry.yaml is imported: there, and by value elsewhere."""
    module = ModuleType("metafluence_local_of_the_suite")
    sys.modules[module.__name__] = module
    exec(OWN, module.__dict__)
    cloudpickle.register_pickle_by_value(module)
    try:
        yield module
    finally:
        cloudpickle.unregister_pickle_by_value(module)
        del sys.modules[module.__name__]


def _silence(sentence: str) -> None:
    """Nobody is told."""


def executor_suite(executor: Executor | type[Executor], skip: Collection[str] = ()) -> type:
    """A class of tests for pytest: `executor` (an instance, or a class with defaults) on all CHECKS but `skip`."""
    return simple_suite("executor", CHECKS, executor, skip, examples=1)


def executor_failures(executor: Executor) -> list[Fault]:
    """What the suite finds wrong with an executor: a sentence each, empty where all is well."""
    return simple_faults("executor", CHECKS, executor, skip=())

"""dattri: TracIn, TRAK, and EK-FAC (for linear layers only)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from dattri.algorithm.influence_function import IFAttributorEKFAC
from dattri.algorithm.tracin import TracInAttributor
from dattri.algorithm.trak import TRAKAttributor
from dattri.task import AttributionTask
from problem import L2, Single
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset


def methods(single: Single) -> dict[str, Callable[[], Tensor]]:
    def one(params: dict[str, Tensor], pair: tuple[Tensor, Tensor]) -> Tensor:
        logits = functional_call(single.module, params, (pair[0].unsqueeze(0),))
        return nn.functional.cross_entropy(logits, pair[1].unsqueeze(0))

    def margin(params: dict[str, Tensor], pair: tuple[Tensor, Tensor]) -> Tensor:
        loss = one(params, pair)
        return -loss - torch.log(-torch.expm1(-loss))

    def batch(params: dict[str, Tensor], pair: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(functional_call(single.module, params, (pair[0],)), pair[1])

    def loaders(size: int = 100) -> list[DataLoader]:
        pairs = (single.inputs, single.labels), (single.target_inputs, single.target_labels)
        return [DataLoader(TensorDataset(*pair), batch_size=size) for pair in pairs]

    state = single.module.state_dict()

    def tracin() -> Tensor:
        found = TracInAttributor(AttributionTask(one, single.module, state), [1.0], normalized_grad=False)
        found.projector_kwargs = None
        return found.attribute(*loaders())

    def trak() -> Tensor:
        task = AttributionTask(margin, single.module, state, target_func=one)
        options = {"proj_dim": 512, "proj_max_batch_size": 32, "proj_seed": 0, "device": "cpu"}
        found = TRAKAttributor(task, lambda *a: torch.exp(-one(*a)), options, regularization=1e-3)
        train, test = loaders()
        found.cache(train)
        return -found.attribute(test)

    def ek_fac() -> Tensor:
        found = IFAttributorEKFAC(AttributionTask(batch, single.module, state), damping=L2)
        found.cache(loaders()[0])
        return found.attribute(*loaders())

    made = {"tracin": tracin, "trak-512": trak}
    if not any(isinstance(layer, nn.Conv2d) for layer in single.module.modules()):
        made["ek-fac, sampled"] = ek_fac
    return made

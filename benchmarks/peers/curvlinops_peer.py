"""curvlinops: EK-FAC and conjugate gradients on the Gauss-Newton matrix, with per-instance gradients by torch.func."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from curvlinops import CGInverseLinearOperator, EKFACLinearOperator, GGNLinearOperator, KFACInverseLinearOperator
from curvlinops.examples import IdentityLinearOperator
from problem import L2, Single
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap


def methods(single: Single) -> dict[str, Callable[[], Tensor]]:
    params = list(single.module.parameters())
    setting = (single.module, nn.CrossEntropyLoss(), params, [(single.inputs, single.labels)])

    def gradients(inputs: Tensor, labels: Tensor) -> Tensor:
        named = {name: p.detach() for name, p in single.module.named_parameters()}

        def loss(given: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            logits = functional_call(single.module, given, (x.unsqueeze(0),))
            return nn.functional.cross_entropy(logits, y.unsqueeze(0))

        found = vmap(grad(loss), in_dims=(None, 0, 0))(named, inputs, labels)
        return torch.cat([g.flatten(1) for g in found.values()], dim=1)

    def scores(directions: Tensor) -> Tensor:
        parts = zip(single.inputs.split(100), single.labels.split(100), strict=True)
        return torch.cat([gradients(*part) @ directions for part in parts])

    def goals() -> Tensor:
        return gradients(single.target_inputs, single.target_labels).T

    def ek_fac(fisher: str) -> Tensor:
        factors = EKFACLinearOperator(
            *setting, fisher_type=fisher, separate_weight_and_bias=False, check_deterministic=False
        )
        return scores(KFACInverseLinearOperator(factors, damping=L2, use_exact_damping=True) @ goals())

    def cg() -> Tensor:
        ggn = GGNLinearOperator(*setting, check_deterministic=False)
        identity = IdentityLinearOperator([p.shape for p in params], ggn.device, ggn.dtype)
        inverse = CGInverseLinearOperator(ggn + L2 * identity, max_iter=10, max_tridiag_iter=10)
        return scores(inverse @ goals())

    return {"ek-fac": partial(ek_fac, "type-2"), "ek-fac, sampled": partial(ek_fac, "mc"), "cg-10": cg}

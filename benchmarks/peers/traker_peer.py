"""traker: TRAK."""

from __future__ import annotations

import tempfile
from collections.abc import Callable

import torch
from problem import Single
from torch import Tensor
from trak import TRAKer
from trak.projectors import BasicProjector, ProjectionType


def methods(single: Single) -> dict[str, Callable[[], Tensor]]:
    def trak() -> Tensor:
        projector = BasicProjector(
            single.size, 512, 0, ProjectionType.rademacher, "cpu", block_size=256, dtype=torch.float32
        )
        with tempfile.TemporaryDirectory() as folder:
            found = TRAKer(
                single.module, "image_classification", len(single.labels), folder, device="cpu", projector=projector,
                proj_dim=512, use_half_precision=False, logging_level=50, lambda_reg=1e-3,
            )  # fmt: skip
            found.load_checkpoint(single.module.state_dict(), model_id=0)
            for part in zip(single.inputs.split(100), single.labels.split(100), strict=True):
                found.featurize(batch=part, num_samples=len(part[0]))
            found.finalize_features()
            found.start_scoring_checkpoint("it", single.module.state_dict(), 0, num_targets=len(single.target_labels))
            found.score(batch=(single.target_inputs, single.target_labels), num_samples=len(single.target_labels))
            return torch.as_tensor(found.finalize_scores("it"))

    return {"trak-512": trak}

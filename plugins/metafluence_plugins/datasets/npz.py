"""Any labelled images in one `.npz` file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from metafluence import DataError, Labelled, LabelledDataset


@dataclass(frozen=True)
class Npz(LabelledDataset):
    """`path` to an .npz archive that holds `inputs` and `labels`, arrays of equal length under those names.

    A relative path is looked for under `root`, else under $METAFLUENCE_DATA, else under the working folder. 8-bit
    images are scaled to [0, 1]; images [n, h, w] and [n, h, w, 3] become [n, channels, h, w]. An array [classes,
    instances, h, w] needs no labels.
    """

    path: str
    root: str | None = None
    inputs: str = "images"
    labels: str = "labels"

    def load(self) -> Labelled:
        file = self._find()
        try:
            with np.load(file, allow_pickle=False) as archive:
                names = sorted(archive.files)
                images = archive[self.inputs] if self.inputs in names else None
                labels = archive[self.labels] if self.labels in names else None
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{file} cannot be read as an .npz archive: {error}. Make it anew.") from error
        if images is None:
            raise DataError(
                f"{file} has no array {self.inputs!r}; it holds {', '.join(names)}. Set inputs to one of them."
            )
        if labels is None:
            if images.ndim != 4:
                raise DataError(f"{file} has no array {self.labels!r}; it holds {', '.join(names)}. Set labels.")
            labels = np.repeat(np.arange(images.shape[0]), images.shape[1])
            images = images.reshape(-1, *images.shape[2:])
        if len(images) != len(labels):
            raise DataError(f"{file} has {len(images)} inputs but {len(labels)} labels. They must be equally many.")
        names, codes = np.unique(labels, return_inverse=True)
        values = torch.from_numpy(images)
        values = values.to(torch.float32) / 255 if values.dtype == torch.uint8 else values
        if values.dim() == 3:
            values = values.unsqueeze(1)
        elif values.dim() == 4 and values.shape[-1] in (1, 3):
            values = values.movedim(-1, 1)
        return Labelled(values, torch.from_numpy(codes).long(), tuple(str(n) for n in names))

    def _find(self) -> Path:
        root = self.root or os.environ.get("METAFLUENCE_DATA") or "."
        file = Path(root) / self.path
        if not file.is_file():
            raise DataError(
                f"There is no file {file.resolve()}. Set the data set's root, or METAFLUENCE_DATA, to the folder "
                f"that holds {self.path}."
            )
        return file

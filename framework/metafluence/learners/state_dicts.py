"""A module's `state_dict` as meta-parameters, and back: its keys by name, under any prefix."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from metafluence.errors import InputError
from metafluence.runtime import warn

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""Buffers of batch norms, which learners do not use."""
SHOWN = 8


def matched_keys(
    wanted: Mapping[str, Tensor], extra: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> dict[str, str]:
    """The key in `state` of every name in `wanted` (of the module) and in `extra` (of what the learner adds).

    A prefix that all of the module's keys have (`module.`, `emb_func.`) is allowed; keys without it then belong to
    something else and are left out with a notice. What is extra is found by its name, or else by the last part of it
    (`weight`) and its shape, if that is unique. `wanted` and `extra` hold tensors of the right shapes.

    Raises:
        InputError: keys are missing, unexpected or of another shape; the message names them.
    """
    other = next((key for key, part in state.items() if not isinstance(part, Tensor)), None)
    if other is not None:
        raise InputError(
            f"{other!r} of the state_dict is no tensor. Give module.state_dict(); mf.read_state_dict(path) finds it in "
            "a file with more."
        )
    prefix = _prefix(wanted, state)
    found = {name: prefix + name for name in wanted if prefix + name in state}
    left = [key for key in state if key not in found.values() and key.rpartition(".")[2] not in STATISTICS]
    for name, like in extra.items():
        key = _extra_key(name, like, prefix, {key: state[key] for key in left})
        if key is not None:
            found[name] = key
            left.remove(key)
    likes = {**wanted, **extra}
    wrong = [f"missing {prefix + name}" for name in likes if name not in found]
    wrong += [f"unexpected {key}" for key in left if key.startswith(prefix)]
    wrong += [
        f"{key} of shape {list(state[key].shape)}, not {list(likes[name].shape)}"
        for name, key in found.items()
        if state[key].shape != likes[name].shape
    ]
    if wrong:
        more = f", and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise InputError(
            f"The state_dict is not that of the learner's module: {'; '.join(wrong[:SHOWN])}{more}. Give the learner "
            "the module that was trained, or rename or leave out keys of the state_dict."
        )
    _say_ignored(state, [key for key in left if not key.startswith(prefix)])
    return found


def _prefix(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """What comes before most of the wanted names; the shortest if several do."""
    ends = {key: [n for n in wanted if key == n or key.endswith("." + n)] for key in state}
    candidates = {key[: len(key) - len(name)] for key, names in ends.items() for name in names}
    return max(sorted(candidates, key=len), key=lambda p: sum(p + name in state for name in wanted), default="")


def _extra_key(name: str, like: Tensor, prefix: str, left: Mapping[str, Tensor]) -> str | None:
    if prefix + name in left:
        return prefix + name
    last = name.rpartition(".")[2]
    by_name = [key for key in left if key == name or key.endswith("." + name)]
    by_shape = [key for key in left if key.rpartition(".")[2] == last and left[key].shape == like.shape]
    return next((keys[0] for keys in (by_name, by_shape) if len(keys) == 1), None)


def _say_ignored(state: Mapping[str, Tensor], others: list[str]) -> None:
    kept = sorted({key.rpartition(".")[0] for key in state if key.rpartition(".")[2] in STATISTICS})
    if kept:
        warn(f"Running statistics of {', '.join(kept)} are ignored: learners normalise by a task's own statistics.")
    if others:
        warn(f"Keys of other parts than the learner's module are ignored: {', '.join(others)}.")


def check_constants(constants: Mapping[str, Tensor], keys: Mapping[str, str], state: Mapping[str, Tensor]) -> None:
    """Raises InputError where the state_dict has other values of what is not trained than the module."""
    for name, constant in constants.items():
        if not torch.equal(state[keys[name]].to(constant), constant):
            raise InputError(
                f"{keys[name]} is not trained, and its values in the state_dict differ from the module's. Load them "
                "into the module first: module.load_state_dict(state_dict)."
            )

"""Learners whose meta-parameters are those of one network: what they have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from metafluence.errors import InputError
from metafluence.learners.meta_learner import MetaLearner
from metafluence.learners.state_dicts import check_constants, matched_keys
from metafluence.networks import (
    Backbone,
    Cotangents,
    FlatModule,
    LayerStack,
    OutputLoss,
    SoftmaxLoss,
    SquaredLoss,
    Through,
    build_module,
    gradients_each,
    layered_loss,
    multiplications,
    per_task_norms,
    probe_module,
    running_norms,
    weighted_mean,
)
from metafluence.registry import Ways
from metafluence.runtime import warn
from metafluence.tasks import Batch, TaskSet


@dataclass(frozen=True, eq=False)
class Binding:
    """What a learner knows of its tasks: the network at flat parameters, the loss of its outputs, and the shape of
    what the network gives for one instance.
    """

    network: FlatModule
    loss: OutputLoss
    output_shape: torch.Size


_BINDING = "_metafluence_binding"
"""Where a bound learner keeps its Binding: one name, that no learner uses by accident."""


class NetworkLearner(MetaLearner):
    """A dataclass with the fields `backbone` and `ways`. λ: the network's parameters, then `extra_size` others.

    The loss follows the targets: softmax cross-entropy of class indices, ½ squared error of real values (regression).

    Class variables:
        classifies: the network ends in one output per class (or target value); else in features.
        regresses: real targets are accepted.
    """

    backbone: Backbone | nn.Module
    ways: Ways | None
    classifies: ClassVar[bool] = True
    regresses: ClassVar[bool] = True

    def check_tasks(self, tasks: TaskSet) -> None:
        _check_targets(self, tasks)
        super().check_tasks(tasks)

    def bind(self, tasks: TaskSet) -> Self:
        _check_targets(self, tasks)
        name, real = type(self).__name__, tasks.real
        ways = self.ways if self.ways is not None else _ways(tasks)
        module = build_module(self.backbone, tasks.input_shape, ways if self.classifies else None)
        if not isinstance(self.backbone, Backbone):
            module = module if self.encodes else _own_statistics(module)
            probe_module(module, tasks.input_shape, tasks.dtype, tasks.device)
        network = FlatModule(module, tasks.dtype, tasks.device)
        with torch.no_grad():
            shape = network(network.flat(), tasks.support.inputs[0, :2]).shape[1:]
        if self.classifies and (len(shape) != 1 or shape[0] < ways or (real and shape[0] > ways)):
            what = "target values" if real else "classes"
            raise InputError(
                f"The backbone {type(module).__name__} gives outputs of shape {list(shape)} per instance, but {name} "
                f"needs one for each of the {ways} {what}. End the module with nn.Linear(..., {ways})."
            )
        bound = replace(self, backbone=module, ways=ways)  # type: ignore[type-var]
        object.__setattr__(bound, _BINDING, Binding(network, SquaredLoss() if real else SoftmaxLoss(), shape))
        return bound

    @property
    def binding(self) -> Binding:
        """What the learner knows of its tasks. Raises InputError before it is bound."""
        if _BINDING not in self.__dict__:
            raise InputError(
                "This learner does not know its tasks yet. Give it to a BilevelProblem, or call bind(tasks)."
            )
        return self.__dict__[_BINDING]

    @property
    def network(self) -> FlatModule:
        """The network as a function of flat parameters. Raises InputError before the learner is bound."""
        return self.binding.network

    @property
    def output_loss(self) -> OutputLoss:
        return self.binding.loss

    @property
    def extra_size(self) -> int:
        """How many meta-parameters there are besides the network's; they are the last ones of λ, and start at zero."""
        return 0

    @property
    def meta_size(self) -> int:
        return self.network.size + self.extra_size

    @property
    def own(self) -> slice:
        return slice(self.network.size, None) if self.encodes else slice(None)

    @property
    def mixes_instances(self) -> bool:
        return self.network.mixes_instances

    def adapted_positions(self) -> dict[str, Tensor]:
        """By name, where each adapted parameter lies among the Q ones, in the shape that a module has it in."""
        return {"adapted": torch.arange(self.adapted_size)}

    def extra_positions(self) -> dict[str, Tensor]:
        """Names of the extra meta-parameters, and where they lie among them, in the shape that a module has them in."""
        return {"extra": torch.arange(self.extra_size)} if self.extra_size else {}

    def positions(self) -> dict[str, Tensor]:
        """Where each named meta-parameter lies in λ, in its own shape: the network's by its names, then the extra ones.

        Raises InputError where the network has a parameter of the same name as an extra one.
        """
        network, extra = self.network.positions(), self.extra_positions()
        twice = next((name for name in extra if name in network), None)
        if twice is not None:
            raise InputError(
                f"{twice!r} is a parameter of the module and of {type(self).__name__}. Rename the module's."
            )
        return {**network, **{name: self.network.size + where for name, where in extra.items()}}

    def meta_from(self, state: Mapping[str, Tensor]) -> Tensor:
        """Meta-parameters [P] from a module's `state_dict`. The learner must be bound (`problem.learner`).

        Prefixes such as `module.` are allowed, and running statistics are ignored with a notice. Raises InputError that
        names missing and unexpected keys, other shapes, values that are not finite, and other frozen values.
        """
        keys, positions = _keys(self, state), self.positions()
        check_constants(self.network.constants(), keys, state)
        meta = self.network.flat().new_zeros(self.meta_size)
        names = self.network.names
        for name, key in keys.items():
            where = positions.get(names.get(name, name))
            if where is None:
                continue  # a constant
            values = state[key].detach().to(meta)
            if not bool(values.isfinite().all()):
                raise InputError(f"{key} has values in the state_dict that are not finite. Take an earlier checkpoint.")
            shared = name in names and names[name] != name
            if shared and not torch.equal(meta[where], values):
                raise InputError(
                    f"{key} is shared with {names[name]} in the module, but they differ in the state_dict."
                )
            meta[where] = values
        return meta

    def state_dict_of(self, meta: Tensor, like: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The `state_dict` of the module at meta-parameters [P], what the learner adds by its own names.

        like: a state_dict whose keys, types, and values of all else it takes.
        """
        if tuple(meta.shape) != (self.meta_size,):
            raise InputError(
                f"meta has shape {tuple(meta.shape)}; this learner has [{self.meta_size}] meta-parameters."
            )
        values = {name: meta.detach()[where] for name, where in self.positions().items()}
        shared = {name: values[first] for name, first in self.network.names.items()}
        extra = {name: values[name] for name in self.extra_positions()}
        if like is None:
            constants = {name: part.clone() for name, part in self.network.constants().items()}
            order = {**self.network.module.state_dict(), **extra}
            return {name: {**constants, **shared, **extra}[name].clone() for name in order}
        own, found = _keys(self, like), {key: part.detach().clone() for key, part in like.items()}
        found.update({own[name]: part.to(like[own[name]]) for name, part in {**shared, **extra}.items()})
        return found

    def init_meta(self, generator: torch.Generator | None) -> Tensor:
        network = self.network.initial(generator)
        return torch.cat([network, self.initial_extra(network, generator)])

    def initial_extra(self, network: Tensor, generator: torch.Generator | None) -> Tensor:
        """The extra meta-parameters [extra_size] to start from; network: the network's."""
        return network.new_zeros(self.extra_size)

    def encode(self, meta: Tensor, inputs: Tensor) -> Tensor:
        return self.network(meta[: self.network.size], inputs) if self.encodes else inputs

    def outer_loss(self, rows: Tensor, adapted: Tensor, query: Batch, weights: Tensor) -> Tensor:
        return weighted_mean(self.output_loss.values(self.predict(rows, adapted, query.inputs), query.targets), weights)

    def pull_each(self, meta: Tensor, inputs: Tensor, cotangents: Cotangents) -> Tensor:
        if self.network.mixes_instances:
            return super().pull_each(meta, inputs, cotangents)
        found = gradients_each(self.network, meta[: self.network.size], inputs, cotangents)
        return nn.functional.pad(found, (0, self.extra_size)) if self.extra_size else found

    def parameter_uses(self, shape: torch.Size) -> float:
        return max(1.0, multiplications(self.network, shape) / self.network.size)

    def outer_layers(self, meta: Tensor, adapted: Tensor, query: Batch, weights: Tensor, shift: float) -> LayerStack:
        if not self.encodes or self.extra_size:
            return super().outer_layers(meta, adapted, query, weights, shift)
        lead, rows = weights.shape, meta[self.own].expand(len(adapted), -1)

        def outputs(features: Tensor) -> Tensor:
            return self.predict(rows, adapted, features.unflatten(1, lead)[0]).flatten(0, 1).unsqueeze(0)

        loss = Through(self.output_loss, outputs)
        inputs, targets, weigh = (p.flatten(0, 1).unsqueeze(0) for p in (query.inputs, query.targets, weights))
        flat = meta.unsqueeze(0)
        return LayerStack(1, lambda _: layered_loss(self.network, flat, inputs, targets, weigh, loss, shift))


def _keys(learner: NetworkLearner, state: Mapping[str, Tensor]) -> dict[str, str]:
    """By name of the module's `state_dict` or of what is extra, the key in another one."""
    likes = {name: where.to(torch.float64) for name, where in learner.extra_positions().items()}
    return matched_keys(learner.network.module.state_dict(), likes, state)


def _own_statistics(module: nn.Module) -> nn.Module:
    """The module, with a notice where its batch norms keep running statistics and therefore are converted."""
    running = running_norms(module)
    if not running:
        return module
    warn(
        f"Running statistics of {', '.join(running)} are ignored: each task's support, and its query, is normalised by "
        "its own statistics, as in training mode. mf.per_task_norms(module) gives the same module without this notice."
    )
    return per_task_norms(module)


def _ways(tasks: TaskSet) -> int:
    """How many classes the tasks have, or target values."""
    return tasks.support.targets.shape[-1] if tasks.real else tasks.ways


def _check_targets(learner: NetworkLearner, tasks: TaskSet) -> None:
    """Raises InputError for real targets where there may be none, and for more classes than outputs."""
    name, real, found = type(learner).__name__, tasks.real, _ways(tasks)
    if real and not learner.regresses:
        raise InputError(f"{name} tells classes apart; these tasks have real targets. Use maml, imaml or ridge-head.")
    if learner.ways is not None and (found > learner.ways or (real and found != learner.ways)):
        what = "target values" if real else "classes"
        raise InputError(
            f"The tasks have {found} {what}, but {name} is set to ways={learner.ways}. Set ways to {found}, or give "
            "other tasks."
        )

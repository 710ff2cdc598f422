"""Which runs a study makes: methods with solvers, and one method on a grid of inner and outer solvers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from metafluence.errors import InputError
from metafluence.evaluation import GridPlan, Plan
from metafluence.registry import Registry, settings
from metafluence.studies.config import GridConfig, Spec, StudyConfig
from metafluence.tasks import LEVELS, Level


def make_plans(
    methods: Sequence[Spec], config: StudyConfig, registry: Registry, dampings: Sequence[float] = ()
) -> list[Plan]:
    """By level: every method that claims it, with each of the study's solvers where it takes one and names none.

    dampings: to be tried with every method that takes one and sets none. Raises InputError for a run asked for twice,
    and for a method that supports no level of the study.
    """
    plans = []
    for spec in methods:
        name, params = parts(spec)
        asked = _levels(params.pop("levels", None), name, config)
        tried = tuple(sorted(set(dampings))) if _leaves_open("damping", registry, name, params) else ()
        swaps = _leaves_open("solver", registry, name, params)
        for solver in config.solvers if swaps else [params.get("solver")]:
            full = {**params, "solver": solver} if solver is not None else params
            method = registry.build("method", {"use": name, **full}, "methods")
            label_of_solver = spec_label(solver) if solver else ""
            levels: list[Level] = [level for level in asked if level in method.levels]
            if not levels:
                raise InputError(
                    f"{name} does not support level {' or '.join(asked)}; its levels are "
                    f"{', '.join(level for level in LEVELS if level in method.levels)}. Add one of them to the "
                    "study's levels, or remove the method."
                )
            built = {"use": name, **settings(method, registry)}
            if tried:
                built.pop("damping")
            plans += [Plan(label(name, params), label_of_solver, method, level, tried, built) for level in levels]
    seen: set[str] = set()
    for plan in plans:
        if plan.id in seen:
            raise InputError(f"The study asks for {plan.label} {plan.solver} twice. Remove one of the two.")
        seen.add(plan.id)
    return sorted(plans, key=lambda plan: config.levels.index(plan.level))


def _levels(asked: Any, name: str, config: StudyConfig) -> list[Level]:
    """The levels at which a method is to run."""
    if asked is None:
        return config.levels
    wanted = asked if isinstance(asked, list) else [asked]
    for level in wanted:
        if level not in config.levels:
            raise InputError(
                f"The method {name} is to run at level {level!r}, which the study does not have; its levels are "
                f"{', '.join(config.levels)}. Give one of these, or add it to the study's levels."
            )
    return [level for level in config.levels if level in wanted]


def make_grid(grid: GridConfig, registry: Registry) -> list[GridPlan]:
    """Every inner solver with every outer one. Raises InputError where the method takes no solver."""
    name, params = parts(grid.method)
    if not _takes("solver", registry, name) or "solver" in params:
        raise InputError(f"grid.method is {grid.method!r}; it must take a solver and name none. Try task-if.")
    plans = []
    for inner in grid.inner:
        solver = registry.build("solver", inner, "grid.inner")
        for outer in grid.outer:
            method = registry.build("method", {"use": name, **params, "solver": outer}, "grid.outer")
            plans.append(GridPlan(spec_label(inner), spec_label(outer), solver, method))
    for which in ("inner", "outer"):
        labels = [spec_label(spec) for spec in getattr(grid, which)]
        twice = next((one for one in labels if labels.count(one) > 1), None)
        if twice:
            raise InputError(f"grid.{which} holds {twice!r} twice. Remove one of the two.")
    return plans


def parts(spec: Spec) -> tuple[str, dict[str, Any]]:
    """The name and the parameters of a component's configuration."""
    if isinstance(spec, str):
        return spec, {}
    if not isinstance(spec.get("use"), str):
        raise InputError(f"The component {spec} does not say which one it is. Write {{use: NAME, ...}}.")
    return spec["use"], {k: v for k, v in spec.items() if k != "use"}


def label(name: str, params: dict[str, Any]) -> str:
    """How a component is called in tables: its name and what was set, but for its solver."""
    shown = [f"{k}={_short(v)}" for k, v in params.items() if k != "solver"]
    return " ".join([name, *shown])


def spec_label(spec: Spec) -> str:
    """The label of a component as a study names it."""
    return label(*parts(spec))


def _takes(what: str, registry: Registry, name: str) -> bool:
    """The method has a field of that name."""
    return any(f.name == what for f in fields(registry.load("method", name)))


def _leaves_open(what: str, registry: Registry, name: str, params: dict[str, Any]) -> bool:
    """The method has such a field, which neither the study sets nor, where it is a preset, the registry."""
    return _takes(what, registry, name) and what not in {**registry.entry("method", name).params, **params}


def _short(value: Any) -> str:
    return str(value.get("use", value)) if isinstance(value, dict) else str(value)

"""The variations of a study: one for each combination of what its YAML varies, each a whole study of its own."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from metafluence.errors import ConfigError, nearest
from metafluence.registry import NonNegative, Seed, Share
from metafluence.studies.config import RunStudyConfig, StudyConfig, check, listed, parse_study, read_mapping
from metafluence.studies.overrides import changed
from metafluence.studies.wrong_fields import no_field
from metafluence.tasks import Level

SEED = "seed"
WORK = ("seed", "dtype", "dataset", "episodes", "corruption", "learner", "l2", "inner_solver", "trainer", "run")
"""The parts of a study that its fit depends on. Variations that agree in them share their stored work."""
NOT_ASKED = {"name", "about", "device", "executor", "distributed", "memory_gib", "columns"}
"""The parts that change no result."""

Changes = dict[str, Any]


MOST_SEEDS = 10_000


def _seeds(value: Any) -> Any:
    """A number is that many, from 0."""
    if isinstance(value, bool) or (isinstance(value, int) and not 1 <= value <= MOST_SEEDS) or value == []:
        raise ValueError(f"Give one seed or more, at most {MOST_SEEDS}, or leave the field out")
    return list(range(value)) if isinstance(value, int) else value


def _axes(value: Any) -> Any:
    """Says what an axis may be in one sentence, not one for each of its forms."""
    if not isinstance(value, dict):
        raise ValueError("Give the names of what is varied, each with a list of values")
    for name, values in value.items():
        labelled = isinstance(values, dict) and all(isinstance(one, dict) for one in values.values())
        if not labelled and not isinstance(values, list):
            raise ValueError(f"Give vary.{name} a list of values, or labels with the changes of each")
    return value


class PublishedRow(BaseModel):
    """What is published of one method."""

    model_config = ConfigDict(extra="forbid")
    accuracy: Share | None = None
    seconds: NonNegative | None = None


class Published(BaseModel):
    """A published table to be set beside the study's own: where it is from, of which level, and its rows by method;
    the row `retrain` is retraining without exactly the corrupted items.
    """

    model_config = ConfigDict(extra="forbid")
    source: str
    level: Level = "task"
    rows: dict[str, PublishedRow]


class Plural(BaseModel):
    """What a study's YAML may hold besides one study.

    seeds: the whole study is done with each, and results are given with their intervals over them; a number is that
    many, from 0. vary: by dotted name, the values that it takes, or by a name of one's own, labelled sets of changes;
    every combination is a variation. sizes: named sets of changes by dotted name, one of which may be chosen when the
    study is run. published: a table, or several of different levels, to be shown beside the study's own.
    """

    seeds: Annotated[list[Seed], BeforeValidator(_seeds)] | None = None
    vary: Annotated[dict[str, list[Any] | dict[str, Changes]], BeforeValidator(_axes)] = {}
    sizes: dict[str, Changes] = {}
    published: Annotated[list[Published], BeforeValidator(listed)] = []


@dataclass(frozen=True)
class Variation:
    """One combination. varied: by name, the label of the value taken, but for the seed."""

    varied: dict[str, str]
    config: StudyConfig

    @property
    def label(self) -> str:
        """In words; empty where nothing but the seed is varied."""
        return ", ".join(f"{name} {label}" for name, label in self.varied.items())

    @property
    def id(self) -> str:
        """Stable: the same for the same configuration, whatever else the study holds."""
        # A field that came later is left out where it is empty, so that earlier stores keep their names.
        asked = self.config.model_dump(mode="json", exclude=NOT_ASKED | (set() if self.config.metrics else {"metrics"}))
        slug = re.sub(r"[^A-Za-z0-9.]+", "-", f"{self.label} seed-{self.config.seed}").strip("-")
        return f"{slug[:60]}-{_hash(asked)[:8]}"

    @property
    def work(self) -> str:
        """The name under which the work that follows from `WORK` is stored."""
        dump = self.config.model_dump(mode="json")
        truth = self.config.truth
        start = None if truth is None else str(truth.begins)
        parts = {name: dump[name] for name in WORK if name in dump} | {"start": start}
        return _hash(parts)[:12]


@dataclass(frozen=True)
class Comparison:
    """A study's file, resolved: what it is called, its variations, and `raw`, the mapping that gives them again."""

    name: str
    about: str
    variations: tuple[Variation, ...]
    published: tuple[Published, ...]
    raw: dict[str, Any]


def load_comparison(path: str | Path, size: str | None = None, changes: Mapping[str, Any] | None = None) -> Comparison:
    """Read and validate a study and all its variations; `size` names one of its sizes, `changes` go on top of it.

    Raises ConfigError naming the file, the field, what was given and what is expected.
    """
    return parse_comparison(read_mapping(Path(path)), size, changes, str(path))


def parse_comparison(
    raw: Mapping[str, Any], size: str | None = None, changes: Mapping[str, Any] | None = None, where: str = "The study"
) -> Comparison:
    """As `load_comparison`, of a mapping."""
    wrong = next((key for key in raw if not isinstance(key, str)), None)
    if wrong is not None:
        raise ConfigError(f"{where} has the field {wrong!r}, which is no text. Put it in quotes.")
    sizes = {} if raw.get("sizes") is None else raw["sizes"]
    if not isinstance(sizes, dict) or not all(isinstance(one, dict) for one in sizes.values()):
        raise ConfigError(f"{where}: sizes is {sizes!r}. Give each size a name and its changes, as small: {{l2: 1}}.")
    if size is not None and size not in sizes:
        close = nearest(size, sizes)
        guess = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(
            f"{where} has no size {size!r}.{guess} Sizes: {', '.join(sizes) or 'none'}. Name one of them, or none."
        )
    resolved = changed(raw, sizes[size] if size is not None else {})
    resolved = changed(resolved, changes or {})
    resolved.pop("sizes", None)
    names = set(Plural.model_fields)
    plural = check(Plural, {k: v for k, v in resolved.items() if k in names}, where)
    single = {k: v for k, v in resolved.items() if k not in names}
    _refuse_unknown(single, names, where)
    variations = tuple(_variations(single, plural, where))
    _refuse_twins(variations, where)
    _refuse_other_fits(variations, where)
    # A size, or a change, may drop a level of which something is published.
    levels = {level for variation in variations for level in variation.config.levels} | set(_levels_named(raw))
    for stated in plural.published:
        if stated.level not in levels:
            raise ConfigError(
                f"{where}: published.level is {stated.level!r}, which is not among its levels. Add it to levels, or "
                "remove the table."
            )
    config = variations[0].config
    return Comparison(config.name, config.about, variations, tuple(plural.published), resolved)


def load_study(path: str | Path) -> StudyConfig:
    """Read and validate a study that is one study. Raises ConfigError as `load_comparison`, and for one of several."""
    first, *others = load_comparison(path).variations
    if others:
        raise ConfigError(f"{path} is {len(others) + 1} studies. Read them with load_comparison.")
    return first.config


def _refuse_unknown(single: dict[str, Any], plural: set[str], where: str) -> None:
    known = [*RunStudyConfig.model_fields, *plural]
    for name in single:
        if name not in known:
            raise ConfigError(f"{where}: {no_field(name, known)}")


def _levels_named(raw: Any) -> Iterator[str]:
    """All that stands under `levels` anywhere in a study's file."""
    if isinstance(raw, Mapping):
        for name, value in raw.items():
            yield from (listed(value) if name == "levels" else _levels_named(value))


def _variations(single: dict[str, Any], plural: Plural, where: str) -> list[Variation]:
    axes = {name: _axis(name, values, where) for name, values in plural.vary.items()}
    if SEED in axes:
        raise ConfigError(f"{where} varies the seed; say so under `seeds`, so that results get intervals over them.")
    found = []
    for labels in itertools.product(*axes.values()):
        varied = dict(zip(axes, labels, strict=True))
        raw = single
        for name, label in varied.items():
            raw = changed(raw, axes[name][label])
        for seed in plural.seeds or [raw.get(SEED, 0)]:
            said = ", ".join(f"{name} {label}" for name, label in varied.items())
            found.append(Variation(varied, parse_study({**raw, SEED: seed}, f"{where} ({said})" if said else where)))
    return found


def _axis(name: str, values: Sequence[Any] | Mapping[str, Changes], where: str) -> dict[str, Changes]:
    """By label, the changes of one value."""
    if not values:
        raise ConfigError(f"{where}: vary.{name} is empty. Give one or more values, or remove it.")
    if isinstance(values, Mapping):
        return dict(values)
    labelled: dict[str, Changes] = {}
    for value in values:
        label = _label(value)
        if label in labelled:
            raise ConfigError(f"{where}: vary.{name} holds {label!r} twice. Remove one, or give labels of your own.")
        labelled[label] = {name: value}
    return labelled


def _label(value: Any) -> str:
    if isinstance(value, Mapping):
        rest = [f"{k}={_label(v)}" for k, v in value.items() if k != "use"]
        return " ".join([*([str(value["use"])] if "use" in value else []), *rest])
    return "-".join(_label(v) for v in value) if isinstance(value, list) else str(value)


def _refuse_twins(variations: Sequence[Variation], where: str) -> None:
    seen: set[str] = set()
    for variation in variations:
        key = variation.id.rsplit("-", 1)[-1]
        if key in seen:
            said = ", ".join(part for part in (variation.label, f"seed {variation.config.seed}") if part)
            raise ConfigError(f"{where}: {said} asks for what another variation does already. Remove one of them.")
        seen.add(key)


def _refuse_other_fits(variations: Sequence[Variation], where: str) -> None:
    """Raises ConfigError where seeds or `vary` ask for other fits of one recorded run."""
    first: dict[str, RunStudyConfig] = {}
    for config in (variation.config for variation in variations):
        if not isinstance(config, RunStudyConfig):
            continue
        known = first.setdefault(config.run, config)
        for name in ("seed", "learner", "inner_solver", "dtype"):
            if getattr(config, name) != getattr(known, name):
                field = "seeds has several values" if name == SEED else f"vary changes {name}"
                raise ConfigError(
                    f"{where}: {field}, but run is one fit, {config.run!r}, whatever they are. Give one, or vary run "
                    "with it: a recorded run for each."
                )


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()

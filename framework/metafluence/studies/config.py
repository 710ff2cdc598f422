"""A study's YAML: its schema, and how it is read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from metafluence.errors import ConfigError, InputError, nearest
from metafluence.evaluation import Kind, Part, TruthKind
from metafluence.registry import NonNegative, Positive, Seed, read_yaml, truth_as_number
from metafluence.runtime import device_name
from metafluence.studies.wrong_fields import sentences
from metafluence.tasks import Corruption, Episodes, Level, count_of
from metafluence.training import Proximal, Start, recorded_dtype

Spec = Annotated[str | dict[str, Any], Field(description="a name, or a mapping with use: NAME and its parameters,")]
"""A component."""
Specs = Annotated[list[Spec], Field(min_length=1)]
Name = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="a text of at most 100 letters, digits, points, - and _, with a letter or a digit first,",
    ),
]
Share = Annotated[float, Field(gt=0, lt=1)]
LATER = ("kind", "weight", "damping", "extremes")
"""Fields of `truth` that are younger than the first stores."""
EXTREMES = [0.01, 0.05]
WITHOUT: dict[Kind, tuple[str, ...]] = {
    "minimum": ("weight", "damping"),
    "run": ("start", "seeds", "damping"),
    "procedure": ("start", "damping"),
    "proximal": ("start", "seeds"),
}
"""Fields of `truth` that mean nothing for a kind."""
NOT_OF_A_RUN = {
    "trainer": "the run is the fit",
    "checkpoints": "the run is the fit, and methods take its own steps (`along: run`)",
    "corruption": "the run was made with the tasks that it had",
    "l2": "the run was made with its own",
    "candidates": "a run that never drew a task says nothing of it",
}
"""Fields that a study of a recorded run has not, and why."""
TASK_FILES = (".npz", ".safetensors")
"""How names of files of tasks end."""


def listed(value: Any) -> Any:
    """One is a list of one."""
    return value if isinstance(value, list) else [] if value is None else [value]


Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """A mapping without other keys than its fields."""

    model_config = ConfigDict(extra="forbid")


class TruthConfig(Strict):
    """The ground truth that methods are compared with, at every level of the study.

    kind: `minimum` retrains exactly, to a minimum; `run` replays the run that the study's trainer made, with the same
    start, batches and rates; `procedure` replays `seeds` runs from other starts with other batches, and is their mean;
    `proximal` trains the model on near where it is, at a minimum or not (see `Proximal`).
    items: how many items, drawn at random where there are more, are left out one at a time;
    or all. subsets: how many random subsets are left out, each of a share `subset_share` of the items (for the linear
    datamodeling score).
    seeds: with how many other seeds all of this is done again from a fit of their own, to see how well retraining
    agrees with itself; of a procedure, how many runs it is the mean of. start: of retraining to a minimum, warm from
    λ*, or cold. weight: what the weights of left-out items are multiplied by in replays and proximal models, 0 to
    leave them out; changes are scaled to those of a whole removal. damping: of a proximal truth, how strongly it stays
    near in parameters; a method's answer is judged fairly at its own damping. extremes: shares of the items of highest
    and of lowest score that are left out together, to see what the targets' losses do; 1 % and 5 % for `run` if not
    given, else none.
    """

    items: Annotated[int, Field(ge=2, le=10**9)] | Literal["all"] = 64
    subsets: Annotated[int, Field(ge=0, le=10**6)] = 0
    subset_share: Share = 0.5
    seeds: Annotated[int, Field(ge=0, le=10**4)] = 0
    start: Literal["warm", "cold"] = "warm"
    kind: Kind = "minimum"
    weight: Part = 0.0
    damping: NonNegative | None = None
    extremes: Annotated[list[Share], BeforeValidator(listed)] | None = None

    @model_validator(mode="after")
    def _fits_its_kind(self) -> TruthConfig:
        for name in WITHOUT[self.kind]:
            if getattr(self, name) != type(self).model_fields[name].default:
                other = "proximal" if name == "damping" else "run" if self.kind == "minimum" else "minimum"
                fix = f"add `kind: {other}`" if self.kind == "minimum" else f"leave it out, or set `kind: {other}`"
                raise InputError(f"truth.{name} has no meaning for `kind: {self.kind}`; {fix}.")
        if self.averages and self.seeds < 2:
            raise InputError(
                f"truth.seeds is {self.seeds}, but `kind: procedure` is a mean over runs. Give how many, 2 or more."
            )
        if self.kind == "proximal" and self.damping is None:
            raise InputError(
                "truth.damping is missing: `kind: proximal` stays near the model by it. Give that of the methods "
                "that it judges."
            )
        return self

    @property
    def averages(self) -> bool:
        """It is a mean over runs."""
        return self.kind == "procedure"

    @property
    def runs(self) -> int:
        """How many fits of their own seeds are made, and retrained about."""
        return {"minimum": 1 + self.seeds, "procedure": self.seeds}.get(self.kind, 1)

    @property
    def called(self) -> TruthKind:
        """The kind of truth, which knows what it is called."""
        return TruthKind(self.kind, self.weight, self.seeds if self.averages else 1, self.damping or 0.0)

    def ends(self, items: int) -> tuple[int, ...]:
        """How many of `items` items of highest and of lowest score are left out together, each number once."""
        shares = self.extremes if self.extremes is not None else EXTREMES if self.kind == "run" else []
        return tuple(dict.fromkeys(count_of(share, items) for share in shares))

    @property
    def replays(self) -> bool:
        """It replays recorded runs."""
        return self.kind in ("run", "procedure")

    @property
    def begins(self) -> Start | Proximal:
        """How the models without items are made, as a bank of them takes it."""
        return "replay" if self.replays else self.start if self.damping is None else Proximal(self.damping)

    @model_serializer(mode="wrap")
    def _without_later_fields(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if self._shows(name)}

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        return ((name, value) for name, value in super().__repr_args__() if self._shows(str(name)))

    def _shows(self, name: str) -> bool:
        """Fields that came later are not shown at their defaults, so that earlier stores keep their names."""
        return name not in LATER or getattr(self, name) != type(self).model_fields[name].default


class GridConfig(Strict):
    """One method with every inner solver (of each task's Hessian) and every outer one (of the total Hessian)."""

    method: Spec = "task-if"
    inner: Specs
    outer: Specs


class BudgetConfig(Strict):
    """Methods whose error is split by source, and the solvers that count as exact for it."""

    methods: Specs
    inner: Spec = "exact"
    outer: Spec = "exact"


class DampingConfig(Strict):
    """The damping of every method that takes one and sets none, chosen by one rule for all of them.

    values: tried with each method; the one whose removal of the items of lowest score leaves the retrained model the
    lowest loss on the selection tasks is taken. share: of the validation tasks, that are kept for this choice and are
    no targets of any method's scores, so that nothing in a row is measured on tasks that had a part in it.
    """

    values: Annotated[list[NonNegative], Field(min_length=1)] = [0.0, 0.01, 0.1, 1.0, 10.0]
    share: Share = 0.5


class StudyConfig(Strict):
    """Everything that a study is.

    levels: the kinds of items that are judged. methods: each runs at every level that it claims, or at those that its
    own key `levels` names. metrics: numbers more about each run. columns: those of all tables, in this order, as
    results.csv calls them. solvers: every method that takes a solver and names none is run with each. corruption: one,
    or several in turn. remove: share of the items that each method has removed for the accuracy columns, or several of
    them for removal curves, the first for the columns; the corrupted share if not given. checkpoints: a trainer whose
    checkpoints serve the methods that need some; the study's own trainer's if not given. damping: how `methods` that
    take a damping and set none come by it; as the methods have it if not given. grid: one method's scores with inner
    and outer solvers swapped against each other, at the first level. budget: methods whose error is split by where it
    comes from. device: where tensors are: cpu, cuda, cuda:N or mps. distributed: the processes that torchrun started
    share the tasks. certificate: whether influence can be trusted here is checked, where there is ground truth.
    candidates: how many more training tasks are drawn that are not trained on, to score what adding each would do;
    compared with exact fits with as many of them as `truth.items` says.
    """

    name: Name
    about: str = ""
    seed: Seed = 0
    dtype: Literal["float64", "float32"] = "float64"
    device: Annotated[str, AfterValidator(device_name)] = "cpu"
    dataset: Spec
    episodes: Episodes = Episodes()
    corruption: Annotated[list[Corruption], BeforeValidator(listed)] = []
    learner: Spec
    l2: Positive
    inner_solver: Spec = "exact"
    trainer: Spec = "newton"
    checkpoints: Spec | None = None
    levels: Annotated[list[Level], Field(min_length=1)] = ["task"]
    methods: Specs
    solvers: Specs = ["cg"]
    metrics: list[Spec] = []
    columns: list[str] = []
    damping: DampingConfig | None = None
    grid: GridConfig | None = None
    budget: BudgetConfig | None = None
    certificate: Annotated[bool, Field(strict=True)] = True
    truth: TruthConfig | None = TruthConfig()
    remove: Annotated[list[Share], BeforeValidator(listed)] = []
    executor: Spec = "processes"
    distributed: Annotated[bool, Field(strict=True)] = False
    memory_gib: Positive = 2.0
    candidates: Annotated[int, Field(ge=1, le=10**5)] | None = None

    @model_validator(mode="after")
    def _adds_to_a_minimum(self) -> StudyConfig:
        if self.candidates is not None and self.damping is not None:
            raise InputError("damping is chosen by removals, and candidates are added. Set one in each method.")
        if self.candidates is not None and self.truth is not None and self.truth.kind != "minimum":
            raise InputError(
                f"candidates are added in exact fits, and `kind: {self.truth.kind}` makes none. Leave candidates out, "
                "or set `truth: {kind: minimum}`."
            )
        return self


class RunStudyConfig(StudyConfig):
    """A study of a run that was recorded, whose tasks take the place of the training tasks.

    run: its folder (`mf.record`, `mf.save_recording`). learner, inner_solver: as the run was recorded with; the learner
    may be `FILE.py:FUNCTION`, too. dataset: what validation and test tasks are drawn from; or an .npz or .safetensors
    file of target tasks, which are the test tasks, too. truth: `run` or `proximal`. dtype, l2: the run's own.
    """

    run: Annotated[str, Field(min_length=1)]
    l2: NonNegative = 0.0

    @model_validator(mode="before")
    @classmethod
    def _is_of_a_run(cls, raw: dict[str, Any]) -> dict[str, Any]:
        for name, why in NOT_OF_A_RUN.items():
            if name in raw:
                raise InputError(f"{name} and run are both given, but {why}. Remove one of the two.")
        asked = raw.get("truth", {})
        raw = {**raw, "truth": {"kind": "run", **asked}} if isinstance(asked, dict) else raw
        found = recorded_dtype(raw["run"]) if isinstance(raw["run"], str) and "dtype" not in raw else None
        return raw if found is None else {**raw, "dtype": str(found).removeprefix("torch.")}

    @model_validator(mode="after")
    def _needs_no_training(self) -> RunStudyConfig:
        if self.truth is not None and self.truth.kind not in ("run", "proximal"):
            raise InputError(
                f"truth.kind is {self.truth.kind!r}, but a recorded run has no trainer to train anew with. Set it to "
                "run, or to proximal."
            )
        if self.targets_file is not None and "episodes" in self.model_fields_set:
            raise InputError(
                "episodes says how tasks are drawn, and dataset is a file of them. Remove episodes, or name a data set."
            )
        return self

    @property
    def targets_file(self) -> str | None:
        """The file of target tasks; None where they are drawn from a data set."""
        named = isinstance(self.dataset, str) and self.dataset.endswith(TASK_FILES)
        return str(self.dataset) if named else None


def read_mapping(path: Path) -> dict[str, Any]:
    """A study's YAML as it stands. Raises ConfigError where there is none."""
    if not os.path.exists(path):
        near = nearest(path.name, [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else [])
        guess = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"There is no study file {path}.{guess} Check the path.")
    raw = read_yaml(path, "study")
    if not isinstance(raw, dict):
        raise ConfigError(
            f"{path} holds no study: a study is a mapping of fields such as dataset, learner, methods. Write "
            "each as name: value."
        )
    return raw


def parse_study(raw: dict[str, Any], where: str = "The study") -> StudyConfig:
    """Validate a study given as a mapping."""
    return check(RunStudyConfig if "run" in raw else StudyConfig, raw, where)


def check(model: type[Model], raw: dict[str, Any], where: str) -> Model:
    """Validate a mapping. Raises ConfigError with a sentence for each thing that is wrong."""
    try:
        found = model.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(sentences(model, raw, error, where)) from error
    parsed = found.model_dump()
    for name, value in raw.items():
        place = truth_as_number(listed(value) if isinstance(parsed.get(name), list) else value, parsed.get(name), name)
        if place is not None:
            raise ConfigError(f"{where}: {place} is a yes or no, where a number is expected. Give a number.")
    return found

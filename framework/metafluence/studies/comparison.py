"""Doing a study's variations one after another in one store, and keeping what each found."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from metafluence.errors import InputError, MetafluenceError, StoreError, in_words
from metafluence.progress import Observer
from metafluence.registry import Registry
from metafluence.runtime import joined, load_facts, save_facts, write_atomically
from metafluence.studies.config import listed
from metafluence.studies.outcomes import Outcome, load_outcome, outcome, save_outcome
from metafluence.studies.provenance import keep_source, local_code, made_with
from metafluence.studies.study import Study
from metafluence.studies.study_result import StudyResult
from metafluence.studies.variations import Comparison, Published, Variation

Finished = Callable[[Study, StudyResult, Path], None]
"""Told of each variation that is finished: the study, its result, and the folder for its own report."""


@dataclass(frozen=True)
class Store:
    """The folder of one study: `work/` by what it follows from, `outcomes/` and reports by variation."""

    folder: Path

    def work(self, variation: Variation) -> Path:
        """Where fits, retrainings and scores are kept; variations with the same fit share it."""
        return self.folder / "work" / variation.work

    def page(self, id: str, of: int) -> Path:
        """The folder of a variation's own report: the store itself for the only one."""
        return self.folder if of == 1 else self.folder / "variations" / id

    def outcome(self, id: str) -> Path:
        return self.folder / "outcomes" / f"{id}.safetensors"

    def write_study(self, comparison: Comparison, registry: Registry) -> None:
        """Keep what was asked, resolved, all that it takes to ask it again, and the versions that it is done with."""
        keep_source(self.folder, comparison.raw, registry)
        asked = {
            "study": comparison.raw,
            "variations": [variation.id for variation in comparison.variations],
            "configurations": {v.id: v.config.model_dump(mode="json") for v in comparison.variations},
            "versions": made_with(registry),
            "code": local_code(registry, comparison.raw),
        }
        save_facts(self.folder / "study.json", asked)


class Comparing:
    """All variations of a study, their components built and checked before anything is computed.

    What is finished is kept (of several processes by the first), and reused; a variation that fails is an outcome with
    its reason, and the others go on.
    """

    def __init__(
        self, comparison: Comparison, registry: Registry, folder: str | Path, observer: Observer | None = None
    ) -> None:
        self.comparison, self.store = comparison, Store(joined().folder(Path(folder)))
        self._observer, self._registry = observer or Observer(), registry
        self.studies = [self._study(variation, registry) for variation in comparison.variations]

    @property
    def versions(self) -> dict[str, str | None]:
        """What it is done with."""
        return made_with(self._registry)

    def _study(self, variation: Variation, registry: Registry) -> Study:
        try:
            return Study(variation.config, registry, self.store.work(variation), self._observer)
        except InputError as error:
            if not variation.label:
                raise
            raise InputError(f"{variation.label}: {error}") from error

    def run(self, finished: Finished) -> list[Outcome]:
        """Do what is not done yet. Raises the first error where every variation failed."""
        self.store.write_study(self.comparison, self._registry)
        outcomes: list[Outcome] = []
        errors: list[MetafluenceError] = []
        count = len(self.studies)
        for number, (variation, study) in enumerate(zip(self.comparison.variations, self.studies, strict=True), 1):
            if count > 1:
                self._observer.study(number, count, f"{variation.label} seed {variation.config.seed}".strip())
            try:
                result = study.run()
            except StoreError:  # no other variation could be kept either
                raise
            except Exception as error:
                errors.append(self._refusal(variation, error))
                reason = str(errors[-1])
                outcomes.append(
                    Outcome(id=variation.id, varied=variation.varied, seed=variation.config.seed, reason=reason)
                )
                continue
            finally:  # a lost process is no failure of a variation
                joined().check()
            kept = outcome(variation, result)
            save_outcome(self.store.outcome(variation.id), kept)
            outcomes.append(kept)
            if joined().first:
                finished(study, result, self.store.page(variation.id, count))
        if len(errors) == count:
            raise errors[0]
        return outcomes

    def _refusal(self, variation: Variation, error: Exception) -> MetafluenceError:
        """The error of a variation as one of ours; of any other the traceback is kept in a file."""
        if isinstance(error, MetafluenceError):
            return error
        file = self.store.folder / "failures" / f"{variation.id}.txt"
        write_atomically(file, "".join(traceback.format_exception(error)).encode())
        return MetafluenceError(f"A component raised {in_words(error)}. The traceback is in {file}.")


@dataclass(frozen=True)
class Stored:
    """A store as it is: the study's mapping as it was resolved, and what is finished of it, and where each is
    reported.
    """

    folder: Path
    raw: dict[str, object]
    versions: dict[str, str | None]
    outcomes: tuple[Outcome, ...]
    missing: tuple[str, ...]
    """Variations that are not finished, or whose outcome cannot be read."""
    damage: tuple[str, ...]
    """Why outcomes cannot be read."""
    pages: tuple[Path, ...]
    code: dict[str, str]
    """Hashes of the code of local components, by kind and name."""

    @property
    def name(self) -> str:
        return str(self.raw["name"])

    @property
    def published(self) -> tuple[Published, ...]:
        return tuple(Published.model_validate(one) for one in listed(self.raw.get("published")))


def open_stores(folders: Sequence[str | Path]) -> list[Stored]:
    """Read what is finished in stores. Raises StoreError for a folder that is none, or with nothing finished."""
    return [_open(Path(folder)) for folder in folders]


def _open(folder: Path) -> Stored:
    file = folder / "study.json"
    if not file.is_file():
        raise StoreError(f"{folder} is no store of a study: it has no study.json. Give the folder that `run` wrote.")
    try:
        facts = load_facts(file)
    except StoreError as error:
        raise StoreError(f"{error} Run the study again in this folder: what is stored there is used.") from error
    store = Store(folder)
    if "variations" not in facts:
        raise StoreError(f"{file} was written by an older version. Run the study again; name another folder.")
    outcomes: dict[str, Outcome] = {}
    damage: list[str] = []
    for id in facts["variations"]:
        if store.outcome(id).exists():
            try:
                outcomes[id] = load_outcome(store.outcome(id))
            except StoreError as error:
                damage.append(str(error))
    if not outcomes:
        reasons = " ".join(damage) or f"Nothing in {folder} is finished yet."
        raise StoreError(f"{reasons} Run its study to the end of a variation first; what is stored there is used.")
    missing = tuple(id for id in facts["variations"] if id not in outcomes)
    pages = tuple(store.page(id, len(facts["variations"])) for id in outcomes)
    done = tuple(outcomes.values())
    return Stored(folder, facts["study"], facts["versions"], done, missing, tuple(damage), pages, facts.get("code", {}))

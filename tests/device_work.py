"""What is done on a device and again on the processor: every registered learner, solver, preconditioner and method.

Run as a script it does those of one kind on the pretended device, or on the one that is named, and prints what differs
or failed, a line of JSON for each.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import metafluence as mf
from metafluence.evaluation.damping_sweep import sweep_damping
from metafluence.linalg.solving import solve_sweep
from parts import EXACT, LEARNERS, NEWTON, REAL, VARIANTS
from small_studies import TINY, configuration

REGISTRY = mf.default_registry()
Found = dict[str, Any]
POINTS = {"use": "npz", "path": "points.npz"}
BACKBONES: dict[str, dict[str, Any]] = {
    "small-conv": {"channels": [2]},
    "conv4": {"width": 2},
    "resnet12": {"widths": [2, 2]},
    "mlp": {"hidden": [3]},
}
SOLVERS: dict[str, dict[str, Any]] = {"lissa": {"iterations": 30, "repeats": 2}, "neumann": {"truncation": 30}}
METHODS: dict[str, dict[str, Any]] = {
    "leave-out": {"use": "influence", "leave_out": True, "solver": "exact", "inner_solver": "cg"},
    "gauss-newton": {"use": "influence", "curvature": "gauss-newton", "solver": "cg", "damping": 0.5},
    "cosine": {"use": "gradient-similarity", "kind": "cosine"},
    "trak-gaussian": {"use": "trak", "projection": "gaussian", "models": "checkpoints"},
    "sampled": {"use": "ekfac-if", "fisher": "sampled"},
    "empirical": {"use": "ekfac-if", "fisher": "empirical", "judge": False},
}


def tasks(count: int, seed: int, device: torch.device, shape: tuple[int, ...] = (2,), real: bool = False) -> mf.TaskSet:
    """Tasks of two classes, or two real targets, drawn on the processor."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(2).repeat(2).expand(count, -1).clone()

    def half() -> mf.Batch:
        noise = torch.randn(count, 4, *shape, generator=generator, dtype=torch.float64)
        inputs = noise + labels.reshape(count, 4, *([1] * len(shape)))
        return mf.Batch(inputs, torch.stack([noise.flatten(2).sum(dim=2)] * 2, dim=2) if real else labels.clone())

    made = mf.TaskSet(half(), half(), tuple(f"{seed}-{i}" for i in range(count)))
    return made.to(device=device)


def tried(work: Callable[[], Any]) -> Any:
    """What it gives, or the reason why it gives nothing."""
    try:
        return work()
    except mf.MetafluenceError as error:
        return str(error)


def learner_work(
    device: torch.device, make: Callable[[], mf.MetaLearner], real: bool, shape: tuple[int, ...] = (2,)
) -> Found:
    """All that a problem and its curvatures can be asked for."""
    problem = mf.BilevelProblem(make(), tasks(3, 0, device, shape, real), 0.7, EXACT)
    generator = torch.Generator().manual_seed(1)
    meta = problem.learner.init_meta(generator)
    columns = torch.randn(problem.size, 2, generator=generator, dtype=torch.float64).to(device)
    point = problem.at(meta, mf.Weights.ones(problem.tasks).set("support", [1, 5], 0.5).set("query", [2], 0.0))
    found = {"identity": problem.fingerprint(), "meta": meta, "adapted": point.adapted, "losses": point.task_losses}
    found |= {"outputs": point.predictions, "gradient": point.gradient, "objective": point.objective}
    found |= {"part": point.part(torch.tensor([2, 0]), 2.0).gradient, "each": point.product_each(meta.expand(3, -1).T)}
    for level in mf.WEIGHED:
        found[f"{level} responses"] = point.responses(level)
        found[f"{level} slopes"] = point.slopes(columns[:, :1], level)
        found[f"{level} losses"] = point.item_losses(level)
    for name in REGISTRY.names("curvature"):
        curvature = REGISTRY.build("curvature", name)
        found[f"curvature {name}"] = tried(lambda curvature=curvature: curvature.at(point).matmat(columns))
    layered = REGISTRY.build("method", "ekfac-if")
    found["layers"] = tried(lambda: mf.attribute(layered, mf.Context(point), goals(point)).values)
    descent = REGISTRY.build("trainer", {"use": "adam", "steps": 3, "batch": 2, "validate_every": 1})
    fit = descent.fit(problem, generator=generator, validation=tasks(2, 1, torch.device("cpu"), shape, real))
    return found | {"fit": fit.meta, "checkpoints": torch.stack([c.meta for c in fit.checkpoints])}


def goals(point: mf.Point, mean: bool = False) -> mf.Targets:
    there = point.problem.tasks
    return mf.Targets(point.problem, tasks(2, 7, there.device, there.input_shape, there.real), point.meta, mean)


def solver_work(device: torch.device, spec: Any) -> Found:
    """As outer solver of operators of every kind, in a sweep, and as inner solver."""
    solver = REGISTRY.build("solver", spec)
    problem = mf.BilevelProblem(LEARNERS["joint"](), tasks(3, 0, device), 0.7, EXACT)
    meta = problem.learner.init_meta(torch.Generator().manual_seed(1))
    point = problem.at(meta)
    rhs, found = point.responses("task"), {}
    low = mf.LowRankOperator(rhs, 0.3)
    operators = {"total": point.hessian(), "gauss-newton": point.hessian("held", "gauss-newton"), "low": low}
    operators["dense"] = mf.DenseOperator(low.dense(), frozenset({"symmetric", "psd"}))
    for name, operator in operators.items():
        solved = tried(lambda operator=operator: mf.solve(solver, operator, rhs, 2.0, strict=False))
        found[name] = solved if isinstance(solved, str) else [solved.value, solved.residual, solved.status]
        swept = tried(lambda operator=operator: solve_sweep(solver, operator, rhs, [1.0, 2.0]))
        found[f"{name} swept"] = swept if isinstance(swept, str) else [s.value for s in swept]
    swept = tried(
        lambda: sweep_damping(point, goals(point), REGISTRY.build("curvature", "gauss-newton"), solver, [1, 2])
    )
    found["sweep"] = swept if isinstance(swept, str) else swept.scores
    for name in ("logistic-head", "imaml"):
        inside = mf.BilevelProblem(LEARNERS[name](), tasks(3, 0, device), 0.7, solver)
        at = inside.learner.init_meta(torch.Generator().manual_seed(1))
        found[f"inside {name}"] = tried(lambda inside=inside, at=at: inside.at(at).gradient)
    return found


def method_work(device: torch.device, spec: Any) -> Found:
    """Scores and parameter changes at every level, of a fitted learner with a shared encoder and of one that steps."""
    method, found = REGISTRY.build("method", spec), {}
    for learner in ("logistic-head", "maml"):
        problem, fit, checkpoints = fitted(device, learner)
        bank = mf.RetrainBank(problem, fit, NEWTON, REGISTRY.build("executor", "serial"))
        targets = goals(problem.at(fit.meta))
        for level in mf.WEIGHED if method.additive else ("task",):
            made = mf.Context(problem.at(fit.meta), level, torch.Generator().manual_seed(3), bank, checkpoints)
            name = f"{learner} {level}"
            scored = tried(partial(mf.attribute, method, made, targets))
            found[name] = scored if isinstance(scored, str) else scored.values
            if not isinstance(scored, str) and method.edits:
                change = method.parameter_change(method.prepare(made), [(0,), (1, 2)])
                found[f"{name} change"] = None if change is None else change.values
    return found


FITS: dict[tuple[str, str], tuple[mf.BilevelProblem, mf.Fit, tuple[mf.Checkpoint, ...]]] = {}


def fitted(device: torch.device, learner: str) -> tuple[mf.BilevelProblem, mf.Fit, tuple[mf.Checkpoint, ...]]:
    if (device.type, learner) not in FITS:
        problem = mf.BilevelProblem(LEARNERS[learner](), tasks(4, 0, device), 1.0, EXACT)
        fit = NEWTON.fit(problem, generator=torch.Generator().manual_seed(0))
        descent = REGISTRY.build("trainer", {"use": "sgd", "steps": 4, "checkpoints": 2})
        checkpoints = descent.fit(problem, generator=torch.Generator().manual_seed(0)).checkpoints
        FITS[device.type, learner] = problem, fit, checkpoints
    return FITS[device.type, learner]


def study_work(device: torch.device, learner: str) -> Found:
    """A study with all that one can ask for, twice, so that its store is read too, and the report."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        points(folder)
        raw = {**TINY, "dataset": {**POINTS, "root": place}, "learner": configuration(learner)}
        raw |= {"levels": ["task", "query"], "checkpoints": {"use": "sgd", "steps": 3}, "remove": [0.5]}
        raw["corruption"] = [{"fraction": 0.5, "strength": 1.0}, {"kind": "noise", "strength": 0.5}]
        exact = {"use": "influence", "solver": "exact"}
        raw |= {
            "methods": [exact, "tracin", "random"],
            "budget": {"methods": [exact]},
            "truth": {"items": 2, "subsets": 1},
        }
        raw |= {"trainer": {"use": "newton", "tolerance": 1e-6}}
        config = mf.parse_study(raw).model_copy(update={"device": str(device)})
        for _ in range(2):
            result = mf.Study(config, REGISTRY, folder / "out").run()
        assert result.reused == len(result.runs)
        assert not result.failed, [row.reason for row in result.failed]
        assert mf.write_report(result, folder).exists()
        assert result.fit.meta.device == result.evaluations["task"].problem.tasks.device
        assert result.fit.meta.device.type == device.type
        found = {"identity": (folder / "out" / "manifest.json").read_text()}
        for run in result.runs:
            name, row = f"{run.row.level} {run.row.name}", run.row
            found |= {
                name: [run.scores, run.change_errors, run.curve.tensor()],
                f"{name} row": [row.auroc, row.spearman, row.lds],
            }
        for budget in result.budgets:
            found[f"budget {budget.level} {budget.method}"] = [budget.total, budget.first_order, budget.curvature]
        found |= {f"certificate {c.level}": c.grade for c in result.certificates}
        return found | {"grid": [cell.error for cell in result.grid if cell.status == "ok"], "clean": str(result.clean)}


def loop_work(device: torch.device, clip: float | None) -> Found:
    """A loop of one's own, recorded, made anew, loaded, and scored; and a description that lies."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2)).double()
    model.to(device)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)  # torch's Adam counts steps on the processor
    learner = REGISTRY.build("learner", {"use": "joint", "backbone": model})
    with tempfile.TemporaryDirectory() as place:
        lying = mf.record(f"{place}/lie", learner, optimiser, clip=clip)
        said = tried(lambda: stepped(lying, model, optimiser, tasks(2, 0, device), 2.0, clip))
        model.zero_grad()
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        recorder = mf.record(f"{place}/run", learner, optimiser, clip=clip, every=2)
        for seed in range(3):
            stepped(recorder, model, optimiser, tasks(2, seed, device), 1.0, clip)
        run = recorder.finish()
        loaded = mf.load_recording(f"{place}/run", learner, device=str(device))
        point = loaded.problem.at(loaded.final)
        method = REGISTRY.build("method", "run-influence")
        scores = mf.attribute(method, mf.Context(point, run=loaded), goals(point)).values
        network = run.problem.learner
        assert isinstance(network, mf.NetworkLearner)
        torch.save({name: part.cpu() for name, part in model.state_dict().items()}, f"{place}/model.pt")
        read = network.meta_from(mf.read_state_dict(f"{place}/model.pt"))
        assert read.device.type == device.type
        assert torch.equal(read, run.final)
        return {"said": said, "final": run.final, "again": mf.remade_run(run).final, "scores": scores}


def stepped(
    recorder: mf.LoopRecorder,
    model: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    batch: mf.TaskSet,
    factor: float,
    clip: float | None,
) -> None:
    with recorder.step(batch):
        outputs, targets = model(batch.query.inputs.flatten(0, 1)), batch.query.targets.flatten()
        optimiser.zero_grad()
        (factor * torch.nn.functional.cross_entropy(outputs, targets)).backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip, foreach=False)
        optimiser.step()


def points(folder: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 40, 1, 2, generator=generator) + torch.arange(2).reshape(2, 1, 1, 1)
    np.savez(folder / "points.npz", images=images.double().numpy())


def works() -> dict[str, Callable[[torch.device], Found]]:
    """All of it, by name."""
    found: dict[str, Callable[[torch.device], Found]] = {}
    for name, make in {**LEARNERS, **VARIANTS}.items():
        found[f"learner {name}"] = partial(learner_work, make=make, real=False)
    for name, make in REAL.items():
        found[f"learner {name}"] = partial(learner_work, make=make, real=True)
    for name, parameters in BACKBONES.items():
        backbone = REGISTRY.build("backbone", {"use": name, **parameters})
        make = partial(REGISTRY.build, "learner", {"use": "anil", "backbone": backbone, "steps": 1})
        found[f"backbone {name}"] = partial(learner_work, make=make, real=False, shape=(1, 16, 16))
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), mf.TaskBatchNorm(2), torch.nn.Tanh(), torch.nn.Flatten())
    make = partial(REGISTRY.build, "learner", {"use": "ridge-head", "backbone": module})
    found["backbone of one's own"] = partial(learner_work, make=make, real=False, shape=(1, 5, 5))
    for name in REGISTRY.names("solver"):
        found[f"solver {name}"] = partial(solver_work, spec={"use": name, **SOLVERS.get(name, {})})
    for solver, name in product(("cg", "minres", *SOLVERS), REGISTRY.names("preconditioner")):
        found[f"solver {solver} with {name}"] = partial(
            solver_work, spec={"use": solver, **SOLVERS.get(solver, {}), "preconditioner": name}
        )
    found["solver ek-fac sampled"] = partial(solver_work, spec={"use": "ek-fac", "fisher": "sampled"})
    for name in REGISTRY.names("method"):
        found[f"method {name}"] = partial(method_work, spec=name)
    for name, spec in METHODS.items():
        found[f"method {name}"] = partial(method_work, spec=spec)
    for clip in (None, 0.1):
        found[f"loop clip {clip}"] = partial(loop_work, clip=clip)
    found["study logistic-head"] = partial(study_work, learner="logistic-head")
    return found


def difference(work: Callable[[torch.device], Found], device: torch.device, tolerance: float = 1e-7) -> str:
    """What is not the same on the device and on the processor; empty where all is."""
    ours, theirs = work(torch.device("cpu")), work(device)
    assert ours.keys() == theirs.keys()
    return "; ".join(name for name in ours if not same(ours[name], theirs[name], tolerance))


def same(ours: Any, theirs: Any, tolerance: float) -> bool:
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(same(a, b, tolerance) for a, b in zip(ours, theirs, strict=True))
    if isinstance(ours, Tensor | float):
        a, b = (torch.as_tensor(x).cpu().double() for x in (ours, theirs))
        return a.shape == b.shape and torch.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
    return ours == theirs


def pretended() -> AbstractContextManager[torch.device]:
    """The pretended device, which must not be there beside a real one: torch has room for one kind of device."""
    return importlib.import_module("pretend").entered()


def refusals() -> str:
    """The pretence is worth something: what of this goes through on the pretended device."""
    pretend = importlib.import_module("pretend")
    there, here = torch.zeros(2, 2, device=pretend.DEVICE), torch.zeros(2, 2)
    tried: dict[str, Callable[[], Any]] = {
        "sum": lambda: there + here,
        "product": lambda: here @ there,
        "inside vmap": lambda: torch.func.vmap(lambda row: row * here[0])(there),
        "inside a gradient": lambda: torch.func.grad(lambda x: (x * here).sum())(there),
        "joined": lambda: torch.cat([there, here]),
        "index": lambda: here[torch.zeros(1, dtype=torch.int64, device=pretend.DEVICE)],
        "picked": lambda: there.index_select(0, torch.zeros(1, dtype=torch.int64)),
        "drawn": lambda: torch.randn(2, generator=torch.Generator(), device=pretend.DEVICE),
        "numpy": there.numpy,
        "array": lambda: np.asarray(there),
    }
    through = []
    for name, work in tried.items():
        try:
            work()
            through.append(name)
        except (RuntimeError, TypeError):
            pass
    return ", ".join(through)


def main(kind: str, name: str = "pretend") -> None:
    torch.set_num_threads(1)
    with pretended() if name == "pretend" else nullcontext(torch.device(name)) as device:
        if kind == "refusals":
            print(json.dumps([kind, refusals()]))
        for label, work in works().items():
            if not label.startswith(kind):
                continue
            try:
                said = difference(work, device)
            except Exception:
                said = traceback.format_exc()
            print(json.dumps([label, said]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The certificate says yes where influence holds, and names what fails where it does not."""

from dataclasses import asdict, replace

import pytest
import torch

import metafluence as mf
from metafluence.evaluation.certificate import RANKS, SIZES
from metafluence.testing.worlds import World, world
from metafluence_plugins.executors.serial import Serial
from metafluence_plugins.methods.influence import InfluenceFunction
from metafluence_plugins.methods.loss import LossScore
from metafluence_plugins.solvers.exact import Exact
from metafluence_plugins.trainers.newton import Newton

METHOD = InfluenceFunction(solver=Exact())


def certificate(here: World, level: mf.Level, point: mf.Point | None = None, items: int = 14, **changes):
    context = here.context(level)
    context = replace(context, point=point or context.point, **changes)
    targets = mf.Targets(here.problem, here.validation, context.point.meta)
    return mf.certify(METHOD, context, targets, items=items)


def checks(found: mf.Certificate) -> dict[str, bool]:
    return {check.name: check.ok for check in found.checks}


def test_influence_is_certified_where_removals_are_small():
    """Query instances of a strongly regularised problem hardly move it."""
    here = world(0)
    found = certificate(here, "query", items=28)
    ok = checks(found)
    assert all(ok[name] for name in ("outer stationarity", "inner stationarity", "definiteness", "conditioning"))
    assert ok["order"]
    assert found.grade in ("sizes and order", "order")
    assert mf.Certificate.from_facts(asdict(found)) == found


def test_the_largest_step_is_measured_by_halving_its_weight():
    here = world(1)
    found = next(c for c in certificate(here, "query").checks if c.name == "largest step")
    point = here.context("query").point
    item = int(point.responses("query").norm(dim=0).argmax())
    predicted = torch.linalg.solve(point.hessian().dense(), point.responses("query")[:, item])
    bank = here.context("query").bank
    errors = [
        float((bank.leave_out([(item,)], "query", weight=w).meta[:, 0] - here.fit.meta - (1 - w) * predicted).norm())
        for w in (0.0, 0.5)
    ]
    assert f"item {item}:" in found.measured
    assert f"lengths is {errors[0] / errors[1]:.1f}" in found.measured


def known(removals, change, loss, **more) -> mf.Truth:
    return mf.Truth(removals=removals, change=change, loss_change=loss, seconds=0.0, **more)


class Bent(mf.RetrainBank):
    """Retraining that moves λ by the prediction times the step, and by `bend` of it times the step's square."""

    def __init__(self, start: torch.Tensor, predicted: torch.Tensor, bend: float, converged: bool = True) -> None:
        self.parts = start, predicted, bend, converged

    def leave_out(self, removals, level="task", strict=True, weight=0.0):
        start, predicted, bend, converged = self.parts
        step = 1 - weight
        meta = start + step * predicted + step**2 * bend * predicted
        ones = torch.ones(1)
        return mf.Retrained(meta.unsqueeze(1), torch.tensor([converged]), ones, ones, ones, ("",))


def largest_step(here: World, method: mf.AttributionMethod, bend: float = 0.0, bank=None, converged: bool = True):
    context = here.context("query")
    item = int(context.point.responses("query").norm(dim=0).argmax())
    predicted = method.parameter_change(method.prepare(context), [(item,)]).values[:, 0]
    context = replace(context, bank=bank or Bent(here.fit.meta, predicted, bend, converged))
    change, loss = here.truth["query"]
    truth = known(tuple((i,) for i in range(len(loss))), change, loss)
    diagnostics = mf.diagnose(context.point, torch.Generator().manual_seed(0))
    found = mf.certify(method, context, here.targets(mean=True), diagnostics, truth)
    return next(check for check in found.checks if check.name == "largest step")


@pytest.mark.parametrize(("bend", "error", "ok"), [(0.1, "9.1", True), (-0.53, "112.8", False), (0.0, "0.0", True)])
def test_a_large_error_of_the_largest_step_is_no_success_whatever_its_ratio(bend, error, ok):
    """An error that is wholly of second order has the ratio 4, however large it is."""
    found = largest_step(world(0), METHOD, bend)
    assert f"error {error} %" in found.measured
    assert "ratio of the errors' lengths is 4.0" in found.measured or bend == 0
    assert found.ok == ok


def test_methods_that_are_not_additive_are_asked_for_their_error_only():
    """Half of what leave_out predicts for a removal is not its prediction for half the weight."""
    method = replace(METHOD, leave_out=True)
    assert not largest_step(world(0), method, -0.53).ok
    found = largest_step(world(0), method, 0.1)
    assert found.ok
    assert "ratio" not in found.required + found.measured


def test_retrainings_that_do_not_converge_certify_no_step():
    here = world(0)
    stuck = Newton(max_steps=0)  # λ stays where it is
    for bank in (None, mf.RetrainBank(here.problem, here.fit, stuck, Serial())):
        found = largest_step(here, METHOD, 0.1, bank, converged=False)
        assert not found.ok
        assert "did not converge" in found.measured


def test_an_order_stands_beside_what_other_seeds_agree_to():
    here = world(0)
    change, loss = here.truth["query"]
    removals = tuple((i,) for i in range(len(loss)))
    ceiling = mf.Ceiling(seeds=1, pearson=0.9, spearman=0.8, spearman_low=0.5, spearman_high=0.95)
    found = mf.certify(
        METHOD, here.context("query"), here.targets(True), truth=known(removals, change, loss, ceiling=ceiling)
    )
    assert found.checks[-1].measured.endswith("retraining from other seeds agrees to 0.800 (0.50 to 0.95)")


def test_a_point_that_is_no_minimum_is_not_certified():
    here = world(0)
    away = here.problem.at(here.fit.meta + 0.3)
    found = certificate(here, "task", away)
    assert not checks(found)["outer stationarity"]
    assert found.grade != "sizes and order"
    assert "An assumption fails: outer stationarity" in found.verdict


def test_ranks_that_are_wrong_are_not_certified():
    """The same truth with its losses in another order."""
    here = world(0)
    change, loss = here.truth["query"]
    removals = tuple((i,) for i in range(len(loss)))
    shuffled = known(removals, change, loss.flip(0))
    context = here.context("query")
    diagnostics = mf.diagnose(context.point, torch.Generator().manual_seed(0))
    found = mf.certify(METHOD, context, here.targets(mean=True), diagnostics, shuffled)
    assert found.grade == "neither"
    assert "retrain what matters" in found.verdict
    good = mf.certify(METHOD, context, here.targets(mean=True), diagnostics, known(removals, change, loss))
    assert checks(good)["order"]
    wrong = known(removals, 3 * change, loss)
    sizes = mf.certify(METHOD, context, here.targets(mean=True), diagnostics, wrong)
    assert not checks(sizes)["sizes"]
    assert sizes.grade == "order"


def test_thresholds_stand_in_the_checks():
    asked = {check.name: check.required for check in certificate(world(0), "query").checks}
    assert f"{100 * SIZES:.0f} %" in asked["sizes"]
    assert str(RANKS) in asked["order"]


def test_what_cannot_be_certified_is_refused():
    here = world(0)
    with pytest.raises(mf.InputError, match="needs a retrain bank"):
        certificate(here, "task", bank=None)
    context = here.context("task")
    with pytest.raises(mf.InputError, match="a method that predicts parameters"):
        mf.certify(LossScore(), context, here.targets())


def test_a_certificate_names_the_method_that_it_judged():
    found = certificate(world(0), "query")
    assert found.method == "InfluenceFunction"
    assert found.verdict.startswith("InfluenceFunction can")


@pytest.mark.parametrize("at", ["fit", "chance"])
def test_a_model_at_chance_is_not_certified(at):
    """Targets whose labels are drawn at random: the same influence, of a model that knows nothing of them."""
    here, context = world(0), world(0).context("query")
    change, loss = here.truth["query"]
    tasks = here.validation
    if at == "chance":
        classes = int(tasks.query.targets.max()) + 1
        labels = torch.randint(classes, tasks.query.targets.shape, generator=torch.Generator().manual_seed(0))
        tasks = mf.TaskSet(tasks.support, mf.Batch(tasks.query.inputs, labels), tasks.ids)
    targets = mf.Targets(here.problem, tasks, here.fit.meta)
    truth = known(tuple((i,) for i in range(len(loss))), change, loss)
    found = mf.certify(METHOD, context, targets, truth=truth)
    right = float((targets.point.predictions.argmax(-1) == tasks.query.targets).double().mean())
    assert f"accuracy {right:.3f}" in found.checks[0].measured
    assert checks(found)["model"] == (at == "fit")
    if at == "chance":
        assert found.grade == "neither"
        assert "no better than chance" in found.verdict


def test_too_few_retrained_items_certify_nothing():
    here, context = world(0), world(0).context("query")
    change, loss = here.truth["query"]
    few = known(tuple((i,) for i in range(5)), change[:, :5], loss[:5])
    found = mf.certify(METHOD, context, here.targets(mean=True), truth=few)
    assert found.checks[1].measured == "5 retrained items"
    assert not found.checks[1].ok
    assert found.grade == "neither"
    assert "too few to judge" in found.verdict

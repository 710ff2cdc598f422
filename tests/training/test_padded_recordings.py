"""Recorded loops whose tasks differ in numbers of instances."""

from pathlib import Path

import pytest
import torch
from torch import nn

import metafluence as mf
from refusals import refused
from small_loops import Episode, learner, loss, module

STEPS, BATCH = 4, 3


def episode(generator: torch.Generator, shots: int, queries: int) -> tuple[torch.Tensor, ...]:
    parts = []
    for n in (shots, queries):
        labels = torch.arange(2).repeat_interleave(n)
        means = labels.double().reshape(-1, 1, 1, 1)
        parts += [means + torch.randn(len(labels), 1, 4, 4, generator=generator, dtype=torch.float64), labels]
    return tuple(parts)


def episodes() -> list[list[tuple[torch.Tensor, ...]]]:
    """Of each step, tasks of 1 to 3 shots; in the last step all of one size, another than before."""
    generator = torch.Generator().manual_seed(0)
    sizes = [[(1 + (s + i) % 3, 2 + i) for i in range(BATCH)] for s in range(STEPS - 1)] + [[(2, 5)] * BATCH]
    return [[episode(generator, *one) for one in some] for some in sizes]


def trained(folder: Path | None = None, without: int | None = None) -> tuple[torch.Tensor, mf.TrainingRun | None]:
    """The loop by hand; the loss of task number `without` counts nothing."""
    model = module()
    sgd = torch.optim.SGD(model.parameters(), lr=0.2)
    described = mf.build("learner", "protonet", backbone=model)
    recorder = mf.record(folder, described, sgd, every=2, check_every=1) if folder is not None else None

    def step(number: int, batch: list[tuple[torch.Tensor, ...]]) -> None:
        sgd.zero_grad()
        losses = [loss(model, (*one, [], [])) for one in batch]  # type: ignore[arg-type]
        kept = [part for i, part in enumerate(losses) if number * BATCH + i != without]
        (torch.stack(kept).sum() / BATCH).backward()
        sgd.step()

    for number, batch in enumerate(episodes()):
        if recorder is None:
            step(number, batch)
        else:
            with recorder.step(batch):
                step(number, batch)
    return nn.utils.parameters_to_vector(model.parameters()).detach(), recorder and recorder.finish()


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[torch.Tensor, mf.TrainingRun, Path]:
    folder = tmp_path_factory.mktemp("padded") / "run"
    end, run = trained(folder)
    assert run is not None
    return end, run, folder


def test_the_tasks_are_those_of_the_loop_padded(done):
    _, run, folder = done
    flat = [one for some in episodes() for one in some]
    ids = run.problem.tasks.ids
    expected = mf.pad_tasks(
        mf.Task(i, mf.Batch(*one[:2]), mf.Batch(*one[2:])) for i, one in zip(ids, flat, strict=True)
    )
    assert run.problem.tasks.fingerprint() == expected.fingerprint()
    assert mf.load_recording(folder, learner()).problem.fingerprint() == run.problem.fingerprint()


def test_replays_are_the_loop_with_and_without_a_task(done):
    """Oracle: the loop by hand, where the task counts nothing."""
    end, run, _ = done
    torch.testing.assert_close(run.final, end, rtol=0, atol=1e-14)
    for start, stop in run.segments():
        run.replayed(start, stop)
    for item in (1, 8, 10):
        alone = run.replay(run.removing("task", (item,)))
        torch.testing.assert_close(alone, trained(without=item)[0], rtol=0, atol=1e-12)
        assert not torch.allclose(alone, end, atol=1e-4)


def test_influence_through_it_is_the_difference_of_replays(done):
    _, run, _ = done
    targets = mf.Targets(run.problem, run.problem.tasks[:3], run.final)
    context = mf.Context(run.problem.at(run.final), run=run)
    scores = mf.attribute(mf.build("method", "run-influence"), context, targets).values[:, 0]
    for item in (0, 7):
        less = run.replay(run.removing("task", (item,), weight=1 - 1e-4))
        more = run.replay(run.removing("task", (item,), weight=1 + 1e-4))
        change = (targets.losses(less) - targets.losses(more)).mean() / 2e-4
        assert float(scores[item]) == pytest.approx(float(change), rel=1e-5)


def test_a_padded_run_is_kept_anew(done, tmp_path):
    _, run, _ = done
    mf.save_recording(run, tmp_path / "kept")
    kept = mf.load_recording(tmp_path / "kept", learner())
    assert kept.problem.fingerprint() == run.problem.fingerprint()
    assert torch.equal(kept.final, run.final)


def test_names_and_batch_norm_are_refused(tmp_path):
    batch = episodes()[0]
    named: list[Episode] = [
        (*one, [f"a/{i}" for i in range(len(one[1]))], [f"a/q{i}" for i in range(len(one[3]))])  # type: ignore[misc]
        for one in batch
    ]
    model = module()
    sgd = torch.optim.SGD(model.parameters(), lr=0.2)
    described = mf.build("learner", "protonet", backbone=model)
    with (
        refused("differ in numbers of instances and name their images"),
        mf.record(tmp_path / "a", described, sgd).step(named),
    ):
        pass
    mixing = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.BatchNorm1d(3)).double()
    sgd = torch.optim.SGD(mixing.parameters(), lr=0.2)
    described = mf.build("learner", "protonet", backbone=mf.per_task_norms(mixing))
    recorder = mf.record(tmp_path / "b", described, sgd)

    def step(one: tuple[torch.Tensor, ...]) -> None:
        with recorder.step([one]):
            sgd.zero_grad()
            loss(mixing, (*one, [], [])).backward()  # type: ignore[arg-type]
            sgd.step()

    step(batch[0])
    with refused("its network mixes instances"):
        step(batch[1])

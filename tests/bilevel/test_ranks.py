"""Several processes that compute one problem together: the numbers of one, and no number where one of them fails."""

import json
import multiprocessing
import socket

import pytest
import torch

import metafluence as mf
import ranks_work


@pytest.fixture(scope="module")
def alone():
    return ranks_work.numbers()


@pytest.fixture(scope="module", params=[pytest.param(2, marks=pytest.mark.slow), 3])
def group(request, tmp_path_factory):
    """How many processes there were, and where what they found lies."""
    named = () if request.param == 2 else ((), ())  # three need no scores
    return request.param, together(request.param, tmp_path_factory.mktemp("ranks"), *named)


def together(count, folder, *named):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo", "metafluence.attribution"])  # imported once for all
    (folder / "store" / "inside").mkdir(parents=True)
    (folder / "store" / "inside" / "kept.txt").write_text("kept by ")
    given = [(rank, count, port, folder, named) for rank in range(count)]
    processes = [context.Process(target=ranks_work.work, args=one, daemon=True) for one in given]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=200)
        assert process.exitcode is not None, "a process hangs"
    return folder


def same_numbers(folder, count, alone):
    for rank in range(count):
        found = torch.load(folder / f"{rank}.pt")
        assert len(found) > 40
        for name, one in found.items():
            value = alone[name]
            assert (one.shape, one.dtype) == (value.shape, value.dtype), name
            scale = float(value.double().abs().max()) if value.numel() else 1.0
            torch.testing.assert_close(one, value, rtol=0, atol=1e-10 * max(scale, 1e-6), msg=name)


def errors(folder, count):
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(count) if count == 2 or rank != 1]


def test_every_process_has_the_numbers_of_one(group, alone):
    count, folder = group
    same_numbers(folder, count, alone)


def test_an_error_of_one_process_is_the_error_of_all_and_they_go_on(group):
    count, folder = group
    for found in errors(folder, count):
        assert found["impossible"] == "RemovalError: The last process cannot."
        assert found["after"] == ""


def test_a_process_that_is_killed_is_an_error_in_all_others_within_seconds(group):
    count, folder = group
    for found in errors(folder, count):
        if count == 2:  # one asked for another product instead
            assert "computes something else (product) than another" in found["apart"]
        else:
            assert "lost another, which ended or does not answer" in found["lost"]
            assert "Start all of them again" in found["lost"]
            assert found["seconds"] < 10
        assert found["later"] == found["lost"]


def test_only_the_first_process_writes_to_the_folder_that_all_read(group):
    assert (group[1] / "store" / "copied.txt").read_text() == "kept by 0"


def test_nothing_is_shared_before_processes_join():
    with pytest.raises(mf.InputError, match="No torchrun started this process"):
        mf.join_ranks()


@pytest.mark.slow
def test_every_learner_and_method_has_the_numbers_of_one(tmp_path):
    named = (tuple(ranks_work.LEARNERS), ranks_work.ALL)
    same_numbers(together(2, tmp_path, *named), 2, ranks_work.numbers(*named))

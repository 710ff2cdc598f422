"""Inner Hessians of few-shot tasks: how good EK-FAC is, how many steps Neumann needs, what preconditioning saves.

For each network, number of shots and proximal strength, at meta-parameters after a short meta-training: the inner
systems H_in u = ∂_θ L_O of all tasks are solved by each solver, and compared with a solve to 1e-12. Errors are relative
and medians over tasks: of a dense Gauss-Newton solve (GGN), of one with the blocks of single layers only, and of
EK-FAC. This separates the approximations. "J equal" is the Neumann truncation with the same error as EK-FAC. The last
three columns are iterations of cg. Prints one line per setting.
"""

from __future__ import annotations

import argparse

import torch

import metafluence as mf
from metafluence import Batch, PreparedSolve

NETWORKS = {
    "linear": {"use": "mlp", "hidden": []},
    "mlp 16": {"use": "mlp", "hidden": [16]},
    "conv 8-8": {"use": "small-conv", "channels": [8, 8], "activation": "tanh"},
}
MAX_STEPS = 3000


def inner_systems(network: dict, shot: int, proximal: float, steps: int) -> tuple[mf.LinearOperator, torch.Tensor]:
    """The inner Hessians of 10 tasks and the gradients ∂_θ L_O, [10, Q, 1]."""
    data = mf.build("dataset", "digits").load()
    episodes = mf.Episodes(train=10, validation=1, test=1, way=5, shot=shot, query=10, split="instances")
    tasks = mf.sample(data, episodes, torch.Generator().manual_seed(0), torch.float64).train
    learner = mf.build("learner", "imaml", backbone=network, proximal=proximal, optimiser="lbfgs")
    problem = mf.BilevelProblem(learner, tasks, 0.01, mf.build("solver", "cg"))
    trainer = mf.build("trainer", "adam", steps=steps, batch=5)
    point = problem.at(trainer.fit(problem, generator=torch.Generator().manual_seed(0)).meta)
    rows = point.meta.expand(len(tasks), -1)
    operator = problem.learner.inner_hessian(rows, point.adapted, tasks.support, point.weights.support)
    theta = point.adapted.clone().requires_grad_()
    loss = problem.learner.outer_loss(rows, theta, Batch(tasks.query.inputs, tasks.query.targets), point.weights.query)
    return operator, torch.autograd.grad(loss.sum(), theta)[0].unsqueeze(-1)


def error(value: torch.Tensor, wanted: torch.Tensor) -> float:
    return float(((value - wanted).norm(dim=(1, 2)) / wanted.norm(dim=(1, 2))).median())


def gauss_newton(operator: mf.LinearOperator) -> tuple[torch.Tensor, torch.Tensor]:
    """The dense Gauss-Newton matrices [n, Q, Q] with the proximal term, whole and with the layers' blocks alone."""
    count = operator.batch_shape[0]
    loss = operator.structure.at(slice(0, count))
    shift = loss.shift * torch.eye(operator.size, dtype=operator.dtype).expand(count, -1, -1)
    whole, blocks = shift.clone(), shift.clone()
    for cotangents in loss.loss.roots(loss.outputs):
        rows = torch.zeros(*loss.weights.shape, operator.size, dtype=operator.dtype)
        for layer, gradients in zip(loss.layers, loss.pull(cotangents), strict=True):
            rows[..., layer.index.flatten()] = (gradients.mT @ layer.inputs).flatten(2)
        whole += rows.mT @ (loss.weights.unsqueeze(-1) * rows)
        for layer in loss.layers:
            where = layer.index.flatten()
            own = rows[..., where]
            blocks[:, where[:, None], where] += own.mT @ (loss.weights.unsqueeze(-1) * own)
    return whole, blocks


def neumann_steps(operator: mf.LinearOperator, rhs: torch.Tensor, wanted: torch.Tensor, goal: float) -> str:
    """The truncation J at which Neumann's median error falls to `goal`."""
    solver = mf.build("solver", "neumann", rtol=1e-14, max_iterations=1)
    state = PreparedSolve(solver, operator).state
    step, value = state.step[:, None, None], torch.zeros_like(rhs)
    for j in range(1, MAX_STEPS + 1):
        value = value + step * (rhs - operator.matmat(value))
        if error(value, wanted) <= goal:
            return str(j)
    return f">{MAX_STEPS}"


def measure(network: dict, shot: int, proximal: float, steps: int) -> list[str]:
    operator, rhs = inner_systems(network, shot, proximal, steps)
    wanted = mf.solve(mf.build("solver", "cg", rtol=1e-12), operator, rhs).value
    extremes = mf.extreme_eigenvalues(operator, torch.Generator().manual_seed(0), steps=60)
    condition = float((extremes.largest / extremes.smallest).median())
    approximate = mf.solve(mf.build("solver", "ek-fac"), operator, rhs)
    ekfac = error(approximate.value, wanted)
    whole, blocks = (error(torch.linalg.solve(matrix, rhs), wanted) for matrix in gauss_newton(operator))
    iterations = []
    for spec in (None, {"use": "nystrom", "rank": 20}, {"use": "ek-fac"}):
        solver = mf.build("solver", "cg", preconditioner=spec)
        iterations.append(str(mf.solve(solver, operator, rhs).iterations))
    return [
        f"{operator.size}",
        f"{condition:.0f}",
        f"{100 * whole:.1f} %",
        f"{100 * blocks:.1f} %",
        f"{100 * ekfac:.1f} %",
        f"{100 * float(approximate.residual.median()):.0f} %",
        neumann_steps(operator, rhs, wanted, ekfac),
        neumann_steps(operator, rhs, wanted, 0.01),
        *iterations,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--network", choices=NETWORKS, help="only this one")
    parser.add_argument("--steps", type=int, default=20, help="meta-training steps before measuring")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    headings = (
        "Q",
        "λmax/λmin",
        "GGN",
        "its blocks",
        "ek-fac",
        "residual",
        "J equal",
        "J for 1 %",
        "cg",
        "+nystrom",
        "+ek-fac",
    )
    print(f"{'network':<11}{'shot':>5}{'prox':>6}" + "".join(f"{h:>11}" for h in headings))
    for name, network in NETWORKS.items():
        if options.network not in (None, name):
            continue
        for shot in (1, 5):
            for proximal in (0.1, 1.0):
                found = measure(network, shot, proximal, options.steps)
                print(f"{name:<11}{shot:>5}{proximal:>6g}" + "".join(f"{f:>11}" for f in found), flush=True)


if __name__ == "__main__":
    main()

"""Your own solver in one file: steepest descent with exact steps, separately for every column."""

from dataclasses import dataclass

import torch

from metafluence import Applied, ShiftedOperator, Solver, Status


@dataclass(frozen=True)
class Steepest(Solver):
    """x <- x + (rᵀr / rᵀAr) r, for comparison with cg."""

    rtol: float = 1e-4
    max_iterations: int = 5000

    def prepare(self, operator, damping, generator):
        return ShiftedOperator(operator, damping)

    def apply(self, state, rhs, generator):
        value, residual, iterations = torch.zeros_like(rhs), rhs.clone(), 0
        target = self.rtol * rhs.norm(dim=-2)
        while iterations < self.max_iterations:
            running = residual.norm(dim=-2) > target
            columns = running.reshape(-1, rhs.shape[-1]).any(dim=0).nonzero().squeeze(-1)  # skip finished columns
            if not len(columns):
                break
            part = residual[..., columns]
            product = state.matmat(part)
            squared = part.square().sum(dim=-2)
            step = squared / (part * product).sum(dim=-2).where(squared > 0, torch.ones_like(squared))
            value[..., columns] += step.unsqueeze(-2) * part
            residual[..., columns] -= step.unsqueeze(-2) * product
            iterations += 1
        done = residual.norm(dim=-2) <= target
        status = torch.where(done, int(Status.CONVERGED), int(Status.MAX_ITERATIONS))
        return Applied(value, status, iterations)

    def tolerance(self, dtype):
        return self.rtol

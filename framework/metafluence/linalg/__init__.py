"""Linear operators known by their products, and solving (A + damping I) X = B with them.

A solver sees an operator, never data; its residual is measured outside it.
"""

from metafluence.linalg.functions import FunctionValues, apply_functions
from metafluence.linalg.krylov import Extremes, KrylovSpace, extreme_eigenvalues
from metafluence.linalg.operators import (
    LAYERED,
    LOW_RANK,
    PSD,
    SUM,
    SYMMETRIC,
    CountingOperator,
    DenseOperator,
    LinearOperator,
    LowRank,
    LowRankOperator,
    ShiftedOperator,
    random_groups,
)
from metafluence.linalg.projection import Projection, ProjectionKind
from metafluence.linalg.solvers import Applied, Preconditioner, Solver, Status, check_requirements
from metafluence.linalg.solving import PreparedSolve, Solution, relative_residual, solve, solve_sweep

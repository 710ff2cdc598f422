"""The bilevel problem F(λ; w, q, s) and its derivatives at one λ: total gradient, exact total Hessian, responses.

The mathematics of influence lives here; `docs/mathematics.md` has the formulas.
"""

from metafluence.bilevel.curvature import Curvature
from metafluence.bilevel.diagnostics import CONDITION, INNER_STATIONARY, STATIONARY, Diagnostics, diagnose
from metafluence.bilevel.hessian import Hessian
from metafluence.bilevel.linearisation import Jacobian
from metafluence.bilevel.point import Point
from metafluence.bilevel.problem import BilevelProblem

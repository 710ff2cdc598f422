"""Components that several tests use, by the names they are registered under."""

from metafluence_plugins.backbones.mlp import MLP
from metafluence_plugins.learners.imaml import IMAML
from metafluence_plugins.learners.joint import Joint
from metafluence_plugins.learners.logistic_head import LogisticHead
from metafluence_plugins.solvers.cg import CG
from metafluence_plugins.solvers.exact import Exact
from metafluence_plugins.trainers.newton import Newton

EXACT = Exact()
TIGHT = CG(rtol=1e-13)
NEWTON = Newton(tolerance=1e-11)

# One small instance of every learner that is registered; a test holds the two lists together.
LEARNERS = {
    "logistic-head": lambda: LogisticHead(MLP((2,)), penalty=0.3),
    "joint": lambda: Joint(MLP((2,))),
    "imaml": lambda: IMAML(MLP((2,)), proximal=1.5),
}

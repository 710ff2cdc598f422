"""Components that several tests use, by the names they are registered under."""

from metafluence_plugins.backbones.mlp import MLP
from metafluence_plugins.learners.anil import ANIL
from metafluence_plugins.learners.imaml import IMAML
from metafluence_plugins.learners.joint import Joint
from metafluence_plugins.learners.logistic_head import LogisticHead
from metafluence_plugins.learners.maml import MAML
from metafluence_plugins.learners.protonet import ProtoNet
from metafluence_plugins.learners.ridge_head import RidgeHead
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
    "maml": lambda: MAML(MLP((2,)), steps=2, rate=0.3),
    "anil": lambda: ANIL(MLP((2,)), steps=3, rate=0.3, learn_rate=True),
    "ridge-head": lambda: RidgeHead(MLP((2,)), ridge=0.3, scale=3.0),
    "protonet": lambda: ProtoNet(MLP((2,)), shrinkage=0.1),
}

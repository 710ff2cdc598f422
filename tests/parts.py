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
    "anil": lambda: ANIL(MLP((2,)), steps=3, rate=0.3, learn_rates="one"),
    "ridge-head": lambda: RidgeHead(MLP((2,)), ridge=0.3, scale=3.0),
    "protonet": lambda: ProtoNet(MLP((2,)), shrinkage=0.1),
}

# What a learner's options change, on classes.
VARIANTS = {
    "maml-adam": lambda: MAML(MLP((2,)), steps=2, rate=0.05, rule="adam"),
    "maml-rate-of-layers": lambda: MAML(MLP((2,)), steps=2, rate=0.3, learn_rates="layer"),
    "maml-rate-of-tensors": lambda: MAML(MLP((2,)), steps=2, rate=0.3, learn_rates="tensor", rates_by_step=True),
    "maml-rate-of-entries": lambda: MAML(MLP((2,)), steps=2, rate=0.3, learn_rates="entry", rates_as="rate"),
    "maml-first-order": lambda: MAML(MLP((2,)), steps=2, rate=0.3, first_order=True),
    "anil-adam": lambda: ANIL(MLP((2,)), steps=2, rate=0.05, rule="adam"),
    "anil-first-order": lambda: ANIL(MLP((2,)), steps=2, rate=0.3, first_order=True),
    "ridge-head-implicit": lambda: RidgeHead(MLP((2,)), ridge=0.3, scale=3.0, differentiation="implicit"),
    "ridge-head-as-given": lambda: RidgeHead(MLP((2,)), ridge=0.3, scale=3.0, learn=False),
    "protonet-implicit": lambda: ProtoNet(MLP((2,)), shrinkage=0.1, differentiation="implicit"),
    "protonet-euclidean": lambda: ProtoNet(MLP((2,)), shrinkage=0.1, distance="euclidean"),
}

# The learners that regress, on real targets.
REAL = {f"{name}-real": LEARNERS[name] for name in ("joint", "imaml", "maml", "anil", "ridge-head")}

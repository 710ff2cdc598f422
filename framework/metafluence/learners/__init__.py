"""What a meta-learner is: how it adapts to a task and how the adapted model is judged.

The interfaces and what learners share; the learners themselves are plugins.
"""

from metafluence.learners.implicit_learner import ImplicitLearner, InnerHessian, Optimiser, minimise_inner
from metafluence.learners.inner_rates import LearnedRates, RateScale
from metafluence.learners.inner_steps import InnerRule, StepLearner, descend
from metafluence.learners.linear_head import FeatureLearner, LinearHead, with_one
from metafluence.learners.meta_learner import Adaptation, MetaLearner
from metafluence.learners.minimise import Minimum, minimise_lbfgs, minimise_newton
from metafluence.learners.network_learner import NetworkLearner

"""A torch module as a function of one flat parameter vector, its layers, its loss, and its derivatives."""

from metafluence.networks.autograd import batched_vjp, depends_on, gradients
from metafluence.networks.backbones import ACTIVATIONS, Backbone, activation, build_module, pooled_size, pooling
from metafluence.networks.batch_statistics import evaluated_norms, per_task_norms, running_norms
from metafluence.networks.flat_module import FlatModule
from metafluence.networks.layers import (
    Cotangents,
    LayeredLoss,
    LayerStack,
    gradients_each,
    layered_loss,
    multiplications,
)
from metafluence.networks.losses import (
    OneHotLoss,
    OutputLoss,
    SoftmaxLoss,
    SquaredLoss,
    Through,
    accuracy,
    cross_entropy,
    squared_error,
    weighted_mean,
)
from metafluence.networks.normalisation import GroupNorm, Norm, TaskBatchNorm, norm
from metafluence.networks.probe import probe_module
from metafluence.networks.smooth_twin import kinks, smooth_twin
from metafluence.networks.trace import Layer

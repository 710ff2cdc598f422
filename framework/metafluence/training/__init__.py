"""Meta-training: what a trainer is, the state of a fit, stored fits, and exact retraining without items."""

from metafluence.training.checkpoint_files import load_checkpoints
from metafluence.training.grouped_step import GroupedStep
from metafluence.training.loop_recorder import LoopRecorder
from metafluence.training.proximal import Proximal
from metafluence.training.recording import finish_recording, load_recording, record, recorded_dtype, save_recording
from metafluence.training.retraining import RetrainBank, Retrained, Start
from metafluence.training.run import RunStep, TrainingRun, batch_gradient, load_run
from metafluence.training.run_derivatives import RunAdjoint, check_run, run_adjoint, run_tangent
from metafluence.training.run_recorder import RunRecorder, made_anew, missed_end, remade_run
from metafluence.training.step_rules import AdamStep, MomentumStep, RMSpropStep, SGDStep, StepRule, StepState
from metafluence.training.stored_fit import stored_fit
from metafluence.training.sweep_estimate import SweepEstimate, estimate_sweep
from metafluence.training.trainer import (
    Checkpoint,
    Fit,
    Progress,
    Quality,
    Record,
    Shared,
    Trainer,
    best_record,
    loss_gradient,
    quality_at,
    validate,
)
from metafluence.training.training_state import TrainingState, load_training, save_training

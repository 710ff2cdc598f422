"""How methods are compared: ground truth, metrics, runs, error budget, certificate, grids and sweeps of solvers."""

from metafluence.evaluation.additions import Added, added
from metafluence.evaluation.certificate import Certificate, certify
from metafluence.evaluation.damping_choice import execute_plan
from metafluence.evaluation.damping_sweep import Damped, DampingSweep, sweep_damping
from metafluence.evaluation.error_budget import SOURCES, Budget, ExactReference, error_budget
from metafluence.evaluation.evaluation import Evaluation, TestQuality
from metafluence.evaluation.extremes import DRAWS, random_changes
from metafluence.evaluation.ground_truth import Ceiling, Truth, draw_removals, retrain
from metafluence.evaluation.measured import Measured
from metafluence.evaluation.metric import Better, Metric, Number
from metafluence.evaluation.metrics import (
    ChangeAgreement,
    Detection,
    Interval,
    ScoreAgreement,
    bootstrap,
    change_agreement,
    detection,
    linear_datamodeling_score,
    pareto_front,
    rank_agreement,
    score_agreement,
)
from metafluence.evaluation.plan import GridPlan, Plan
from metafluence.evaluation.predictions import Predictions
from metafluence.evaluation.replays import Replayed, replayed
from metafluence.evaluation.reweighting import Reweighted, reweighted
from metafluence.evaluation.row import NUMBERS, SHOWN, RemovalCurve, Row, Run, run_name
from metafluence.evaluation.run_certificate import certify_run
from metafluence.evaluation.run_scores import RunScores, score_run, score_run_levels
from metafluence.evaluation.run_trust import CHANGES, FLOOR, RunTrust, run_trust, scores_trust
from metafluence.evaluation.selection import Selection, selected
from metafluence.evaluation.solver_grid import Cell, reference_scores, run_cell
from metafluence.evaluation.split_halves import Reliability, reliability
from metafluence.evaluation.standing import STANDING, standing_key, standing_metrics, standing_numbers
from metafluence.evaluation.statistics import (
    FEWEST,
    Rival,
    Standing,
    compare_auroc,
    compare_means,
    compare_medians,
    compare_spearman,
    holm,
    mean_interval,
)
from metafluence.evaluation.tallies import Tally, tallies
from metafluence.evaluation.truth_kind import Kind, Part, TruthKind, TruthWords, truth_words

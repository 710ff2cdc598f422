"""Stubs of the lazy public API: what is imported here is what `metafluence` exports."""

from .allocator import (
    keep_freed_memory as keep_freed_memory,
)
from .attribution import (
    AttributionMethod as AttributionMethod,
)
from .attribution import (
    Context as Context,
)
from .attribution import (
    ParameterChange as ParameterChange,
)
from .attribution import (
    Scores as Scores,
)
from .attribution import (
    SolveReport as SolveReport,
)
from .attribution import (
    Targets as Targets,
)
from .attribution import (
    Units as Units,
)
from .attribution import (
    attribute as attribute,
)
from .attribution import (
    check_context as check_context,
)
from .backbones import (
    ACTIVATIONS as ACTIVATIONS,
)
from .backbones import (
    Backbone as Backbone,
)
from .backbones import (
    activation as activation,
)
from .backbones import (
    build_module as build_module,
)
from .config import (
    StudyConfig as StudyConfig,
)
from .config import (
    parse_study as parse_study,
)
from .corruption import (
    Corruption as Corruption,
)
from .corruption import (
    corrupt as corrupt,
)
from .curvature import (
    Curvature as Curvature,
)
from .datasets import (
    Dataset as Dataset,
)
from .datasets import (
    LabelledDataset as LabelledDataset,
)
from .datasets import (
    Source as Source,
)
from .datasets import (
    data_root as data_root,
)
from .derivatives import (
    batched_vjp as batched_vjp,
)
from .derivatives import (
    gradients as gradients,
)
from .diagnostics import (
    Diagnostics as Diagnostics,
)
from .diagnostics import (
    diagnose as diagnose,
)
from .episodes import (
    Episodes as Episodes,
)
from .episodes import (
    Instances as Instances,
)
from .episodes import (
    Labelled as Labelled,
)
from .episodes import (
    Split as Split,
)
from .episodes import (
    generators as generators,
)
from .episodes import (
    sample as sample,
)
from .errors import (
    ConfigError as ConfigError,
)
from .errors import (
    ConvergenceError as ConvergenceError,
)
from .errors import (
    DataError as DataError,
)
from .errors import (
    InputError as InputError,
)
from .errors import (
    MetafluenceError as MetafluenceError,
)
from .errors import (
    RegistryError as RegistryError,
)
from .errors import (
    RemovalError as RemovalError,
)
from .errors import (
    SolverError as SolverError,
)
from .errors import (
    StoreError as StoreError,
)
from .errors import (
    UnknownNameError as UnknownNameError,
)
from .executors import (
    Executor as Executor,
)
from .executors import (
    Item as Item,
)
from .executors import (
    Result as Result,
)
from .fetch import (
    fetch_sources as fetch_sources,
)
from .fingerprints import (
    component_fingerprint as component_fingerprint,
)
from .hessian import (
    Hessian as Hessian,
)
from .lanczos import (
    Extremes as Extremes,
)
from .lanczos import (
    extreme_eigenvalues as extreme_eigenvalues,
)
from .learners import (
    Adaptation as Adaptation,
)
from .learners import (
    ImplicitLearner as ImplicitLearner,
)
from .learners import (
    InnerHessian as InnerHessian,
)
from .learners import (
    MetaLearner as MetaLearner,
)
from .learners import (
    Optimiser as Optimiser,
)
from .learners import (
    minimise_inner as minimise_inner,
)
from .linearisation import (
    Jacobian as Jacobian,
)
from .loader import (
    build as build,
)
from .loader import (
    default_registry as default_registry,
)
from .losses import (
    accuracy as accuracy,
)
from .losses import (
    cross_entropy as cross_entropy,
)
from .losses import (
    weighted_mean as weighted_mean,
)
from .metrics import (
    ChangeAgreement as ChangeAgreement,
)
from .metrics import (
    Detection as Detection,
)
from .metrics import (
    Interval as Interval,
)
from .metrics import (
    ScoreAgreement as ScoreAgreement,
)
from .metrics import (
    change_agreement as change_agreement,
)
from .metrics import (
    detection as detection,
)
from .metrics import (
    linear_datamodeling_score as linear_datamodeling_score,
)
from .metrics import (
    rank_agreement as rank_agreement,
)
from .metrics import (
    score_agreement as score_agreement,
)
from .minimise import (
    Minimum as Minimum,
)
from .minimise import (
    minimise_lbfgs as minimise_lbfgs,
)
from .minimise import (
    minimise_newton as minimise_newton,
)
from .modules import (
    FlatModule as FlatModule,
)
from .networks import (
    NetworkLearner as NetworkLearner,
)
from .observer import (
    Observer as Observer,
)
from .operators import (
    PSD as PSD,
)
from .operators import (
    SYMMETRIC as SYMMETRIC,
)
from .operators import (
    CountingOperator as CountingOperator,
)
from .operators import (
    DenseOperator as DenseOperator,
)
from .operators import (
    LinearOperator as LinearOperator,
)
from .operators import (
    ShiftedOperator as ShiftedOperator,
)
from .point import (
    Point as Point,
)
from .previews import (
    Summary as Summary,
)
from .previews import (
    summarise as summarise,
)
from .previews import (
    write_preview as write_preview,
)
from .problem import (
    BilevelProblem as BilevelProblem,
)
from .registry import (
    Entry as Entry,
)
from .registry import (
    Registry as Registry,
)
from .report import (
    write_report as write_report,
)
from .result_table import (
    COLUMNS as COLUMNS,
)
from .result_table import (
    cell as cell,
)
from .result_table import (
    columns as columns,
)
from .result_table import (
    table as table,
)
from .retraining import (
    RetrainBank as RetrainBank,
)
from .retraining import (
    Retrained as Retrained,
)
from .runs import (
    Bench as Bench,
)
from .runs import (
    Row as Row,
)
from .runs import (
    Run as Run,
)
from .solving import (
    Applied as Applied,
)
from .solving import (
    PreparedSolve as PreparedSolve,
)
from .solving import (
    Solution as Solution,
)
from .solving import (
    Solver as Solver,
)
from .solving import (
    Status as Status,
)
from .solving import (
    relative_residual as relative_residual,
)
from .solving import (
    solve as solve,
)
from .study import (
    Study as Study,
)
from .study import (
    StudyResult as StudyResult,
)
from .tasks import (
    LEVELS as LEVELS,
)
from .tasks import (
    Batch as Batch,
)
from .tasks import (
    Level as Level,
)
from .tasks import (
    Removal as Removal,
)
from .tasks import (
    Task as Task,
)
from .tasks import (
    TaskSet as TaskSet,
)
from .tasks import (
    Weights as Weights,
)
from .training import (
    Checkpoint as Checkpoint,
)
from .training import (
    Fit as Fit,
)
from .training import (
    Progress as Progress,
)
from .training import (
    Trainer as Trainer,
)
from .truth import (
    Ceiling as Ceiling,
)
from .truth import (
    Truth as Truth,
)
from .verdicts import (
    verdict as verdict,
)

__version__: str
from .backbones import (
    pooled_size as pooled_size,
)
from .backbones import (
    pooling as pooling,
)
from .budget import (
    Budget as Budget,
)
from .budget import (
    Exactly as Exactly,
)
from .budget import (
    error_budget as error_budget,
)
from .certificate import (
    Certificate as Certificate,
)
from .certificate import (
    certify as certify,
)
from .comparison import (
    Comparing as Comparing,
)
from .comparison import (
    Stored as Stored,
)
from .comparison import (
    open_stores as open_stores,
)
from .comparison_report import (
    Merged as Merged,
)
from .comparison_report import (
    merged as merged,
)
from .comparison_report import (
    write_comparison as write_comparison,
)
from .comparison_tables import (
    brief_table as brief_table,
)
from .comparison_verdict import (
    comparison_verdict as comparison_verdict,
)
from .config import (
    GridConfig as GridConfig,
)
from .errors import (
    ExecutorError as ExecutorError,
)
from .executors import (
    Parcel as Parcel,
)
from .executors import (
    RemoteExecutor as RemoteExecutor,
)
from .executors import (
    count as count,
)
from .executors import (
    divided_threads as divided_threads,
)
from .executors import (
    fatal as fatal,
)
from .executors import (
    optional_package as optional_package,
)
from .executors import (
    warn as warn,
)
from .grid import (
    Cell as Cell,
)
from .groups import (
    by_class as by_class,
)
from .groups import (
    by_task as by_task,
)
from .groups import (
    group_scores as group_scores,
)
from .lanczos import (
    KrylovSpace as KrylovSpace,
)
from .layers import (
    Layer as Layer,
)
from .layers import (
    LayeredLoss as LayeredLoss,
)
from .layers import (
    LayerStack as LayerStack,
)
from .layers import (
    layered_loss as layered_loss,
)
from .losses import (
    OutputLoss as OutputLoss,
)
from .losses import (
    SoftmaxLoss as SoftmaxLoss,
)
from .losses import (
    SquaredLoss as SquaredLoss,
)
from .losses import (
    squared_error as squared_error,
)
from .norms import (
    GroupNorm as GroupNorm,
)
from .norms import (
    TaskBatchNorm as TaskBatchNorm,
)
from .norms import (
    norm as norm,
)
from .operators import (
    LAYERED as LAYERED,
)
from .operators import (
    LOW_RANK as LOW_RANK,
)
from .operators import (
    SUM as SUM,
)
from .operators import (
    LowRank as LowRank,
)
from .operators import (
    LowRankOperator as LowRankOperator,
)
from .operators import (
    random_groups as random_groups,
)
from .outcomes import (
    Outcome as Outcome,
)
from .overrides import (
    parse_assignment as parse_assignment,
)
from .pilot import (
    pilot as pilot,
)
from .probes import (
    probe_module as probe_module,
)
from .resuming import (
    TrainingState as TrainingState,
)
from .resuming import (
    load_training as load_training,
)
from .resuming import (
    save_training as save_training,
)
from .solving import (
    Preconditioner as Preconditioner,
)
from .solving import (
    check_requirements as check_requirements,
)
from .solving import (
    solve_sweep as solve_sweep,
)
from .study import (
    Prepared as Prepared,
)
from .sweep_report import (
    sweep_cells as sweep_cells,
)
from .sweep_report import (
    write_sweep as write_sweep,
)
from .sweeps import (
    Damped as Damped,
)
from .sweeps import (
    DampingSweep as DampingSweep,
)
from .sweeps import (
    sweep_damping as sweep_damping,
)
from .training import (
    Quality as Quality,
)
from .training import (
    Record as Record,
)
from .training import (
    Shared as Shared,
)
from .training import (
    best_record as best_record,
)
from .training import (
    loss_gradient as loss_gradient,
)
from .training import (
    quality_at as quality_at,
)
from .training import (
    validate as validate,
)
from .variations import (
    Comparison as Comparison,
)
from .variations import (
    Published as Published,
)
from .variations import (
    Variation as Variation,
)
from .variations import (
    load_comparison as load_comparison,
)
from .variations import (
    load_study as load_study,
)
from .variations import (
    parse_comparison as parse_comparison,
)

"""Stubs of the lazy public API: what is imported here is what `metafluence` exports."""

from .attribution import (
    AttributionMethod as AttributionMethod,
    Context as Context,
    ParameterChange as ParameterChange,
    Scores as Scores,
    SolveReport as SolveReport,
    Targets as Targets,
    Units as Units,
)
from .backbones import (
    ACTIVATIONS as ACTIVATIONS,
    Backbone as Backbone,
    activation as activation,
    build_module as build_module,
)
from .config import (
    StudyConfig as StudyConfig,
    load_study as load_study,
    parse_study as parse_study,
)
from .corruption import (
    Corruption as Corruption,
    corrupt as corrupt,
)
from .curvature import (
    Curvature as Curvature,
)
from .derivatives import (
    batched_vjp as batched_vjp,
    gradients as gradients,
)
from .diagnostics import (
    Diagnostics as Diagnostics,
    diagnose as diagnose,
)
from .episodes import (
    Dataset as Dataset,
    Episodes as Episodes,
    Labelled as Labelled,
    Split as Split,
    sample as sample,
)
from .errors import (
    ConfigError as ConfigError,
    ConvergenceError as ConvergenceError,
    DataError as DataError,
    InputError as InputError,
    MetafluenceError as MetafluenceError,
    RegistryError as RegistryError,
    SolverError as SolverError,
    StoreError as StoreError,
    UnknownNameError as UnknownNameError,
)
from .executors import (
    Executor as Executor,
)
from .fingerprints import (
    component_fingerprint as component_fingerprint,
)
from .lanczos import (
    Extremes as Extremes,
    extreme_eigenvalues as extreme_eigenvalues,
)
from .learners import (
    Adaptation as Adaptation,
    ImplicitLearner as ImplicitLearner,
    InnerHessian as InnerHessian,
    MetaLearner as MetaLearner,
)
from .linearisation import (
    Jacobian as Jacobian,
)
from .loader import (
    build as build,
    default_registry as default_registry,
)
from .losses import (
    accuracy as accuracy,
    cross_entropy as cross_entropy,
    weighted_mean as weighted_mean,
)
from .metrics import (
    ChangeAgreement as ChangeAgreement,
    Detection as Detection,
    ScoreAgreement as ScoreAgreement,
    change_agreement as change_agreement,
    detection as detection,
    score_agreement as score_agreement,
)
from .minimise import (
    Minimum as Minimum,
    minimise_lbfgs as minimise_lbfgs,
    minimise_newton as minimise_newton,
)
from .modules import (
    FlatModule as FlatModule,
)
from .observer import (
    Observer as Observer,
)
from .operators import (
    CountingOperator as CountingOperator,
    DenseOperator as DenseOperator,
    LinearOperator as LinearOperator,
    PSD as PSD,
    SYMMETRIC as SYMMETRIC,
    ShiftedOperator as ShiftedOperator,
)
from .problem import (
    BilevelProblem as BilevelProblem,
    Hessian as Hessian,
    Point as Point,
)
from .registry import (
    Entry as Entry,
    Registry as Registry,
)
from .report import (
    COLUMNS as COLUMNS,
    cell as cell,
    verdict as verdict,
    write_report as write_report,
)
from .retraining import (
    RetrainBank as RetrainBank,
    Retrained as Retrained,
)
from .runs import (
    Row as Row,
    Run as Run,
    Truth as Truth,
)
from .solving import (
    Applied as Applied,
    PreparedSolve as PreparedSolve,
    Solution as Solution,
    Solver as Solver,
    Status as Status,
    relative_residual as relative_residual,
    solve as solve,
)
from .study import (
    Study as Study,
    StudyResult as StudyResult,
)
from .tasks import (
    Batch as Batch,
    LEVELS as LEVELS,
    Level as Level,
    Removal as Removal,
    Task as Task,
    TaskSet as TaskSet,
    Weights as Weights,
)
from .training import (
    Checkpoint as Checkpoint,
    Fit as Fit,
    Progress as Progress,
    Trainer as Trainer,
)

__version__: str

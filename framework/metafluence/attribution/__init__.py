"""What an attribution method is, the sign of its scores, and the influence of groups.

The methods themselves are plugins.
"""

from metafluence.attribution.attribute import attribute, attribute_levels, prepare_and_score
from metafluence.attribution.context import RECORD, Context
from metafluence.attribution.groups import by_class, by_task, group_scores
from metafluence.attribution.method import (
    AttributionMethod,
    ParameterChange,
    Scores,
    SolveReport,
    Targets,
    Units,
    check_context,
)

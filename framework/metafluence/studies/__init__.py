"""A study from its YAML to its results: configuration, variations, plans, preparation, stored outcomes."""

from metafluence.studies.bank import Bank, load_bank
from metafluence.studies.bank_checks import Verified, verify_bank
from metafluence.studies.bank_records import BankedLevel, BankedVariation
from metafluence.studies.bank_setting import BankSetting
from metafluence.studies.bank_writing import write_bank
from metafluence.studies.candidates import CandidateScores
from metafluence.studies.cleaning import Cleaning, clean
from metafluence.studies.comparison import Comparing, Stored, open_stores
from metafluence.studies.config import GridConfig, StudyConfig, parse_study
from metafluence.studies.dry_run import pilot
from metafluence.studies.measuring import METRIC
from metafluence.studies.outcomes import Line, Outcome, Side, outcome
from metafluence.studies.overrides import parse_assignment
from metafluence.studies.preparation import Prepared
from metafluence.studies.provenance import differing_versions
from metafluence.studies.run_inputs import read_learner, read_targets
from metafluence.studies.study import Study
from metafluence.studies.study_result import StudyResult
from metafluence.studies.tracker import Tracker
from metafluence.studies.variations import (
    NOT_ASKED,
    Comparison,
    Published,
    PublishedRow,
    Variation,
    load_comparison,
    load_study,
    parse_comparison,
)

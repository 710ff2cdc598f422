"""Which components there are, where each comes from, and how one is built from configuration.

Knows names, files and parameters; imports no torch, so that listing components is quick.
"""

from metafluence.registry.bounds import (
    Count,
    Decay,
    Finite,
    NonNegative,
    Positive,
    Seed,
    Share,
    Tolerance,
    Ways,
    Whole,
    expected,
    field_names,
    shown_type,
)
from metafluence.registry.catalogue import build, default_registry
from metafluence.registry.component import Component, check_fields
from metafluence.registry.importing import files_beside, import_function
from metafluence.registry.parameters import truth_as_number
from metafluence.registry.registry import Entry, Registry
from metafluence.registry.settings import Plain, settings
from metafluence.registry.yaml_text import parse_yaml, read_yaml, write_yaml

"""The study profile as a code location, for Dagster's own command line and UI."""

from backdoor_assets.definitions import build_definitions
from tests.graph.study import STUDY

defs = build_definitions(STUDY)

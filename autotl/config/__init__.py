"""The configuration of a search, validated: from a study file (TOML), the command line or Python."""

from autotl.config.advice import how_to_test
from autotl.config.limits import Limits, format_cost, parse_count, three_digits
from autotl.config.study_config import (
    StudyConfig,
    claimed_cache,
    default_cache,
    parse_bytes,
    parse_seconds,
    without_password,
)
from autotl.config.study_file import (
    check_registered,
    find_model,
    find_studies,
    find_study,
    load_study_file,
    study_config,
)

__all__ = [
    "Limits",
    "StudyConfig",
    "check_registered",
    "claimed_cache",
    "default_cache",
    "find_model",
    "find_studies",
    "find_study",
    "format_cost",
    "how_to_test",
    "load_study_file",
    "parse_bytes",
    "parse_count",
    "parse_seconds",
    "study_config",
    "three_digits",
    "without_password",
]

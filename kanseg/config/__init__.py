"""Settings of an experiment as typed dataclasses, read from YAML and the command line.

Import from here: the dataclasses, `Value` and `parse_config`.
"""

from kanseg.config.parser import parse_config
from kanseg.config.schema import (
    ClassificationConfig,
    ClassificationData,
    ClassificationTraining,
    Config,
    DataConfig,
    ModelConfig,
    TrainingConfig,
    Value,
)

__all__ = [
    "ClassificationConfig",
    "ClassificationData",
    "ClassificationTraining",
    "Config",
    "DataConfig",
    "ModelConfig",
    "TrainingConfig",
    "Value",
    "parse_config",
]

"""Typed configuration: two YAML files, the coordinator's and the hospital's."""

from mdmt.config.aggregation import AggregationConfig
from mdmt.config.federation import (
    AugmentationConfig,
    FederationConfig,
    HeadConfig,
    ModelConfig,
    PreprocessingConfig,
    TaskConfig,
)
from mdmt.config.loading import find_config, load_federation, load_site, parse_recipe, save_config
from mdmt.config.policy import Policy
from mdmt.config.site import SiteConfig, SiteTask, Synthetic, Table
from mdmt.config.training import TrainingConfig

__all__ = [
    "AggregationConfig",
    "AugmentationConfig",
    "FederationConfig",
    "HeadConfig",
    "ModelConfig",
    "Policy",
    "PreprocessingConfig",
    "SiteConfig",
    "SiteTask",
    "Synthetic",
    "Table",
    "TaskConfig",
    "TrainingConfig",
    "find_config",
    "load_federation",
    "load_site",
    "parse_recipe",
    "save_config",
]

"""Typed configuration: two YAML files, the coordinator's and the hospital's."""

from mdmt.config.federation import (
    AggregationConfig,
    AugmentationConfig,
    FederationConfig,
    HeadConfig,
    ModelConfig,
    PreprocessingConfig,
    TaskConfig,
    TrainingConfig,
)
from mdmt.config.loading import find_config, load_federation, load_site, parse_recipe, save_config
from mdmt.config.site import SiteConfig, SiteTask, Synthetic, Table

__all__ = [
    "AggregationConfig",
    "AugmentationConfig",
    "FederationConfig",
    "HeadConfig",
    "ModelConfig",
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

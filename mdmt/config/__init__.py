"""Typed configuration: two YAML files, the coordinator's and the hospital's."""

from mdmt.config.datasets import AIforCOVID, Brixia, Synthetic, Table
from mdmt.config.federation import (
    AugmentationConfig,
    FederationConfig,
    HeadConfig,
    PreprocessingConfig,
    TaskConfig,
)
from mdmt.config.loading import (
    build_config,
    change_config,
    find_config,
    load_federation,
    load_saved_federation,
    load_site,
    parse_recipe,
    read_yaml,
    save_config,
    saved_by,
)
from mdmt.config.model import LastBlocks, ModelConfig, Trainable
from mdmt.config.privacy import DifferentialPrivacy, PrivacyConfig
from mdmt.config.site import Policy, SiteConfig, SiteTask
from mdmt.config.training import AggregationConfig, ReleaseConfig, TrainingConfig, WireConfig

__all__ = [
    "AIforCOVID",
    "AggregationConfig",
    "AugmentationConfig",
    "Brixia",
    "DifferentialPrivacy",
    "FederationConfig",
    "HeadConfig",
    "LastBlocks",
    "ModelConfig",
    "Policy",
    "PreprocessingConfig",
    "PrivacyConfig",
    "ReleaseConfig",
    "SiteConfig",
    "SiteTask",
    "Synthetic",
    "Table",
    "TaskConfig",
    "Trainable",
    "TrainingConfig",
    "WireConfig",
    "build_config",
    "change_config",
    "find_config",
    "load_federation",
    "load_saved_federation",
    "load_site",
    "parse_recipe",
    "read_yaml",
    "save_config",
    "saved_by",
]

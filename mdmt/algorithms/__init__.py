"""Federated algorithms: one class in one file each, in plain NumPy and torch."""

from mdmt.algorithms.base import Algorithm, AnyAlgorithm, State, Update, algorithms
from mdmt.algorithms.fedavg import FedAvg
from mdmt.algorithms.fedprox import FedProx
from mdmt.algorithms.robust import Median, TrimmedMean
from mdmt.algorithms.server_optimisers import FedAdam, FedAvgM, FedYogi

__all__ = [
    "Algorithm",
    "AnyAlgorithm",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedProx",
    "FedYogi",
    "Median",
    "State",
    "TrimmedMean",
    "Update",
    "algorithms",
]

"""Federated algorithms: one class in one file each, in plain NumPy and torch."""

from mdmt.algorithms.base import Algorithm, AnyAlgorithm, State, Update, algorithms
from mdmt.algorithms.conflict_averse import ConflictAverse
from mdmt.algorithms.ditto import Ditto
from mdmt.algorithms.fedavg import FedAvg
from mdmt.algorithms.fedbabu import FedBABU
from mdmt.algorithms.fedprox import FedProx
from mdmt.algorithms.fedrep import FedRep
from mdmt.algorithms.robust import Median, TrimmedMean
from mdmt.algorithms.server_optimisers import FedAdam, FedAvgM, FedYogi
from mdmt.algorithms.task_similarity import TaskSimilarity

__all__ = [
    "Algorithm",
    "AnyAlgorithm",
    "ConflictAverse",
    "Ditto",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedBABU",
    "FedProx",
    "FedRep",
    "FedYogi",
    "Median",
    "State",
    "TaskSimilarity",
    "TrimmedMean",
    "Update",
    "algorithms",
]

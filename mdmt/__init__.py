"""Federated multi-dataset multi-task (MDMT) learning: the method, in plain PyTorch."""

__version__ = "0.3.0"

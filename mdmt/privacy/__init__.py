"""Protections that need arithmetic: differential privacy and secure aggregation."""

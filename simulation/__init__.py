"""Federations on one machine: the engines, studies and reports."""

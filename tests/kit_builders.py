"""Kits of a small federation, for tests of `mdmt provision`."""

from __future__ import annotations

from mdmt.config import load_federation
from server.deployment.provision import provision

SERVER = "fl.example.org:9092"
FEDERATION = """\
# What my colleagues have to know.
name: test
model:
  backbone: test_resnet   # tiny
  weights: none
  image_size: 32
sites:
  north:
    dataset: {kind: synthetic}
    tasks: {prognosis: {values: {1: SEVERE, 0: MILD}, columns: outcome}}
  south:
    dataset: {kind: synthetic}
    tasks: {severity: {}}
tasks:   # after the sites
  prognosis: {kind: classification, classes: [MILD, SEVERE]}
  severity: {kind: regression, outputs: [A, B, C, D, E, F], range: [0, 3], mirror: {A: D}}
training: {rounds: 2, local_steps: 2, batch_size: 8}
"""


def run(source, kits, *sites, server=SERVER, bind=None):
    done = provision(load_federation(source), source, server, kits, sites, bind)
    return {item.what: item for item in done}


def outcomes(done):
    return {name: item.done for name, item in done.items()}


def contents(folder):
    return {file: file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def private_keys(kits):
    return [file for file in kits.rglob("*.key") if file.is_file()]

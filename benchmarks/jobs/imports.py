"""Import torch and timm and build the model: nobody can train sooner.

``python -m benchmarks.jobs.imports BACKBONE``
"""

import json
import sys

import timm
import torch

if __name__ == "__main__":
    model = timm.create_model(sys.argv[1], in_chans=1, num_classes=2)
    sys.stdout.write(json.dumps({"torch": torch.__version__}) + "\n")

"""Studies: the same comparison over arms, backbones, folds and seeds."""

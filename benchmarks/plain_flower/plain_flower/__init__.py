"""A stock Flower app: FedAvg over the whole state dict of a timm model."""

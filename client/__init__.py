"""The Flower ClientApp: one site, its data, its heads and what it may send."""

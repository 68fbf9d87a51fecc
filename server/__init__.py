"""The Flower ServerApp: registration, rounds, aggregation and the run directory."""

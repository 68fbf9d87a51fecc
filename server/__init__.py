"""The Flower ServerApp: roll call, rounds, aggregation and the run directory."""

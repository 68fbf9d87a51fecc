"""What runs at a hospital beside the ClientApp: the launcher, the worker process, checks, audit."""

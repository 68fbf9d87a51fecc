"""Everything at a hospital besides the ClientApp: launcher, worker process, checks and audit."""

"""Read the folders of runs and studies, and compute statistics of their results."""

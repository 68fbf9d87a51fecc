"""What runs and studies wrote: readers of their folders, and statistics of their results."""

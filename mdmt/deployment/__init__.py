"""What both ends of a deployment need: the layout of kits, and processes that run for months."""

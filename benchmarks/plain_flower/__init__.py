"""The folder of a Flower app, whose package is the folder below."""

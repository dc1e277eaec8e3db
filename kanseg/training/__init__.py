"""Training with Accelerate, from settings to a run folder; start at `kanseg.training.run.train`."""

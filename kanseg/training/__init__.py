"""Training on Accelerate: settings in, run folder out. `kanseg.training.run.train` is the entry."""

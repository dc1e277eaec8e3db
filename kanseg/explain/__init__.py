"""What a trained network has learned, and what it can do without."""

"""Look into the functions of KAN layers: their curves, and statistics of them over data."""

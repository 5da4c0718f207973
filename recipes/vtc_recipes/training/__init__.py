"""Training recipes: configuration, data, models and the training loop."""

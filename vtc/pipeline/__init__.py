"""From a caller's inputs to the compressed inputs of the stock model."""

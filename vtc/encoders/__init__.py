"""Frame encoders: they embed frames and the query in one space."""

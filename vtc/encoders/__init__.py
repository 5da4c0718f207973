"""Frame encoders: embeddings of frames and of the query."""

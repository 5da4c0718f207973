"""The interfaces that plug-ins implement, and the data they exchange with the pipeline."""

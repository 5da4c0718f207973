"""A server of the OpenAI protocol for one wrapped model: ``vtc serve``."""

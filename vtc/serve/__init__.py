"""A server with the OpenAI protocol for one wrapped model: ``vtc serve``."""

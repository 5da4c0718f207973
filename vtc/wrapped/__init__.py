"""The wrapped model: its class, generation, saving, and the verbs of the public surface."""

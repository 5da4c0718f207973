"""A frame selector and a token merger for vtc."""

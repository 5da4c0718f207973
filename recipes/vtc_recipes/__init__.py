"""Training and ablation recipes of vtc."""

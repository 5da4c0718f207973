"""Convert checkpoints of the released ViLAMP to the format of ``vtc.from_pretrained``."""

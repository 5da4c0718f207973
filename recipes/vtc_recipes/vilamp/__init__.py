"""Turns a checkpoint of the authors' ViLAMP release into a folder that ``vtc`` opens."""

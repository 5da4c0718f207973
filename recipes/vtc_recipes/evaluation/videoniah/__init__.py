"""VideoNIAH (section 5.3 of ViLAMP): questions about clips hidden in hours of other videos."""

"""Evaluation: needles in haystacks, heat maps and intervals."""

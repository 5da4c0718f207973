"""Evaluation: benchmarks, needles in haystacks, heat maps and confidence intervals."""

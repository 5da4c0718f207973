"""A synthetic world whose truth is known, and needles in haystacks made of it.

Scenes (`scenes`) follow one another in videos of any length (`videos`), about which there are
questions with one right answer and known evidence (`questions`).
"""

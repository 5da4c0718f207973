"""Budgets with one defect each, run by test_part_suites.py as broken_selectors.py is."""

from __future__ import annotations

import torch
from broken_parts import Defect, Registered

import vtc
from vtc.interfaces.token_budget import SHARED


class Sound(vtc.TokenBudget):
    """Gives one token to each of the frames that are most unlike the one before, by patches."""

    uses_patches = True

    def allocate(self, statistics, total):
        tokens = torch.zeros(statistics.count, dtype=torch.int64)
        score = self.scores(statistics).clone()
        score[statistics.keyframes] = -torch.inf
        most = min(total, statistics.count - len(statistics.keyframes))
        tokens[score.argsort(descending=True, stable=True)[:most]] = 1
        return tokens

    def scores(self, statistics):
        frames = torch.cat(list(statistics.patches)).flatten(1)
        return torch.cat([torch.zeros(1), (frames[1:] - frames[:-1]).norm(dim=1)])


class TestSound(Registered, vtc.testing.BudgetContract):
    part = Sound()


class TestSoundEven(vtc.testing.BudgetContract):
    part = vtc.budget("even")


class TestSetsNoBudget(Defect, vtc.testing.BudgetContract):
    """made: set part = ... in the class TestSetsNoBudget"""


class TestReturnsAListOfTokens(Defect, vtc.testing.BudgetContract):
    """shape_and_dtype: expected allocate to return [7] int64, got ["""

    class broken(Sound):
        def allocate(self, *arguments):
            return super().allocate(*arguments).tolist()


class TestForgetsToRegister(Defect, vtc.testing.BudgetContract):
    """registered_name: Sound is not registered by any plug-in"""

    broken = Sound
    registered = type(vtc.budget("even"))


class TestGivesTooMany(Defect, vtc.testing.BudgetContract):
    """total_is_kept: expected at most 0 tokens, got 1"""

    class broken(Sound):
        def allocate(self, statistics, total):
            return super().allocate(statistics, total + 1)


class TestSharesWithNobody(Defect, vtc.testing.BudgetContract):
    """total_is_kept: shares the token of a frame that has 0 tokens"""

    class broken(Sound):
        def allocate(self, statistics, total):
            tokens = super().allocate(statistics, total)
            return torch.where(tokens == 0, SHARED, tokens)


class TestComparesWithinChunks(Defect, vtc.testing.BudgetContract):
    """chunks_do_not_matter: the tokens depend on how the video's patches are cut into chunks"""

    class broken(Sound):
        def scores(self, statistics):
            rows = []
            for chunk in statistics.patches:
                frames = chunk.flatten(1)  # forgets the last frame of the chunk before
                rows.append(torch.zeros(1))
                rows.append((frames[1:] - frames[:-1]).norm(dim=1))
            return torch.cat(rows)


class TestCountsItsCalls(Defect, vtc.testing.BudgetContract):
    """same_arguments: two equal calls differ"""

    class broken(Sound):
        calls = 0

        def scores(self, statistics):
            self.calls += 1
            return super().scores(statistics) * (-1) ** self.calls


class TestChangesItsArguments(Defect, vtc.testing.BudgetContract):
    """same_arguments: allocate changed its arguments"""

    class broken(Sound):
        def allocate(self, statistics, total):
            if statistics.relevance is not None:
                statistics.relevance.zero_()
            return super().allocate(statistics, total)

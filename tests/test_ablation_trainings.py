"""Which trainings a grid plans, and which rows and seeds share one."""

from __future__ import annotations

from typing import Any

import pytest

from vtc_recipes.ablation.trainings import TrainingJob, parse_training, plan_training

EVIDENCE = {"recipe": "tiny_evidence"}


def plan(model: Any, merger: str, seed: int = 1) -> TrainingJob:
    return plan_training(parse_training(model), {"name": merger}, seed)


def shared_id(job: TrainingJob) -> str:
    shared = job.shared
    if shared is None:
        raise ValueError("the job shares no stages")
    return shared.id


def test_stages_with_a_seed_of_their_own_are_shared_by_all_seeds() -> None:
    other = {**EVIDENCE, "settings": ["stages.1.seed=null"]}
    jobs = [plan(EVIDENCE, merger, seed) for merger in ("mean_pool", "drop") for seed in (0, 1)]
    assert len({job.id for job in jobs}) == 4 and len({shared_id(job) for job in jobs}) == 1
    assert len({shared_id(plan(other, "drop", seed)) for seed in (0, 1)}) == 2


def test_models_of_stages_without_mergers_are_shared_by_all_mergers() -> None:
    model = {**EVIDENCE, "last_stage": "final_stories"}
    jobs = [plan(model, merger) for merger in ("evs", "hico", "drop")]
    assert len({job.id for job in jobs}) == 1 and jobs[0].shared is None
    assert jobs[0].id == shared_id(plan(EVIDENCE, "mean_pool"))


@pytest.mark.parametrize(
    ("changes", "merger", "message"),
    [
        ({}, "q_former", "leaves merger 'q_former' untrained; use stages that train it"),
        ({"last_stage": "review"}, "drop", "one of 'queries', .*'evidence', got 'review'$"),
        ({"last_stage": "queries"}, "drop", "'queries', which trains no language model; end with"),
        ({"recipe": "smoke"}, "drop", "recipe 'smoke' has no stages; remove last_stage"),
    ],
)
def test_last_stages_that_cannot_be_are_refused(changes: Any, merger: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan({**EVIDENCE, "last_stage": "final_stories", **changes}, merger)

"""Small operations run in the calling thread: threads that wait for one another are slow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SELECTORS = (
    "aks",
    "bolt",
    "dks",
    "dks_next",
    "mdp3",
    "mmr",
    "qframe",
    "query_guided",
    "scene_change",
)

MEASURE = """
import json, os, sys, time
import torch
from vtc.plugins import registry

def others():
    '''Seconds that the other threads of this process have run.'''
    tasks = [task for task in os.listdir("/proc/self/task") if int(task) != os.getpid()]
    return sum(int(open(f"/proc/self/task/{t}/schedstat").read().split()[0]) for t in tasks) / 1e9

torch.manual_seed(0)
scenes = torch.randn(40, 512)
embeddings = torch.nn.functional.normalize(
    scenes.repeat_interleave(30, 0) + 0.2 * torch.randn(1200, 512), dim=-1
)
query = torch.nn.functional.normalize(torch.randn(512), dim=-1)
shares = {}
for name in ["matrix", *sys.argv[1:]]:
    if name == "matrix":
        run = lambda: [embeddings @ embeddings.T for _ in range(5)]
    else:
        selector = registry.build_part("selector", name)
        run = lambda: selector.select(embeddings, query)
    run()
    time.sleep(0.05)  # until no thread spins any more
    before, start = others(), time.thread_time()
    run()
    own = time.thread_time() - start
    time.sleep(0.05)
    shares[name] = (others() - before) / own
print(json.dumps(shares))
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux' /proc")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_selectors_start_no_threads():
    words = [sys.executable, "-c", MEASURE, *SELECTORS]
    limits = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in limits}
    run = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    shares = json.loads(run.stdout)
    assert shares.pop("matrix") > 0.2, "a large product uses the other thread, so this can fail"
    assert {name: share for name, share in shares.items() if share > 0.02} == {}

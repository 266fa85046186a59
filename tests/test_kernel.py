"What a notebook cannot test of the compiled kernel: processes, its cache, memory, many cases."
import json
import os
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from joblib import Parallel, delayed

from dln_nb.foundations.checks import random_stream
from dln_nb.foundations.network import gaussian_init
from dln_nb.foundations.task import Task, excess_loss, gaussian_task
from dln_nb.training import kernel, minibatches, trainer
from dln_nb.training.checkpoints import LossLevels, spaced_levels
from dln_nb.training.minibatches import SAMPLINGS
from dln_nb.training.trainer import CheckpointRule, Steps, train

TOP = Path(kernel.__file__).parents[2]


def case(number):
    "A random architecture, task, start (every third time one for each run) and options."
    rng = random_stream(0, "kernel test", number)
    widths = tuple(rng.integers(1, 40, size=rng.integers(2, 6)).tolist())
    M = torch.from_numpy(rng.standard_normal((widths[-1], widths[0])) / max(widths)**.5)
    task = gaussian_task(M, n=int(rng.integers(8, 60)), input_spectrum=1., noise=.1, seed=number)
    starts = [gaussian_init(widths, gamma=1., seed=10 * number + k) for k in range(3)]
    start = tuple(map(torch.stack, zip(*starts))) if number % 3 == 0 else starts[0]
    first = max(excess_loss(s, task).item() for s in starts) + task.min_loss
    rules = [LossLevels(spaced_levels(first, task.min_loss, 12)), Steps([0, 1, 500, 1000])]
    batch_size = None if number % 5 == 0 else int(rng.integers(1, 9))
    return start, task, dict(
        lr=.02, steps=1000, runs=3, seed=number, sampling=SAMPLINGS[number % 3],
        batch_size=batch_size, checkpoints=rules, progress=False)


def assert_same_bits(a, b, runs_a=slice(None), runs_b=slice(None)):
    assert torch.equal(a.excess[runs_a], b.excess[runs_b])
    assert torch.equal(a.checkpoint_steps[runs_a], b.checkpoint_steps[runs_b])
    for V, W in zip((*a.weights, *a.final), (*b.weights, *b.final)):
        np.testing.assert_array_equal(V[runs_a], W[runs_b])


@pytest.mark.parametrize("number", range(30))
def test_agrees_with_torch(number):
    "Losses and weights to 1e-10 after 1000 steps, and the levels hit at the same steps."
    start, task, options = case(number)
    ours, theirs = (train(start, task, kernel=k, **options) for k in ("compiled", "torch"))
    assert not ours.diverged.any() and (ours.excess[:, -1] < ours.excess[:, 0]).all()  # they learn
    assert torch.equal(ours.checkpoint_steps, theirs.checkpoint_steps)
    assert (ours.checkpoint_steps[:, -4:] == torch.tensor([0, 1, 500, 1000])).all()
    torch.testing.assert_close(ours.excess, theirs.excess, rtol=0, atol=1e-10)
    for a, b in zip((*ours.weights, *ours.final), (*theirs.weights, *theirs.final)):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10, equal_nan=True)


def test_levels_are_reached():
    "So that the test above compares hitting steps that exist."
    reached = 0
    for start, task, options in map(case, range(30)):
        reached += (train(start, task, **options).checkpoint_steps[:, :12] > 0).sum().item()
    assert reached > 300


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("name", ["compiled", "torch"])
def test_same_bits_however_divided(number, name, monkeypatch):
    "Runs alone or together, in short or long calls, from small or large blocks, observed or not."
    start, task, options = case(number)
    whole = train(start, task, kernel=name, **options)
    for r in range(3):
        alone = tuple(W[r:r+1] for W in start) if start[0].ndim == 3 else start
        one = train(alone, task, kernel=name, **{**options, "runs": [r]})
        assert_same_bits(one, whole, runs_b=slice(r, r + 1))
    observed = dict(observe={"size": lambda Ws: Ws[0].norm(dim=(-2, -1))}, observe_every=7)
    assert_same_bits(train(start, task, kernel=name, **options, **observed), whole)
    monkeypatch.setattr(trainer, "_PIECE", 1.)     # one run in a call
    monkeypatch.setattr(trainer, "_STAY", 1)       # for one step
    monkeypatch.setattr(minibatches, "_BLOCK", 1)  # one epoch in a block
    assert_same_bits(train(start, task, kernel=name, **options), whole)


@pytest.mark.parametrize("number", range(6))
def test_same_bits_anywhere_in_memory(number, monkeypatch):
    "The block starts at a multiple of 64 bytes; even where it did not, nothing would change."
    start, task, options = case(number)
    whole = train(start, task, kernel="compiled", **options)
    for shift in (1, 2, 5):
        elsewhere = lambda size: np.zeros(size + 16)[shift:shift + size]
        monkeypatch.setattr(kernel, "_aligned_zeros", elsewhere)
        assert_same_bits(train(start, task, kernel="compiled", **options), whole)


def part(number, runs):
    start, task, options = case(number)
    if start[0].ndim == 3: start = tuple(W[list(runs)] for W in start)
    return train(start, task, **{**options, "runs": runs})


def test_same_bits_for_two_workers():
    jobs = [(number, runs) for number in range(4) for runs in ([0], [1, 2])]
    found = Parallel(n_jobs=2)(delayed(part)(*job) for job in jobs)
    for (number, runs), theirs in zip(jobs, found):
        assert_same_bits(part(number, [0, 1, 2]), theirs, runs_a=runs)


class FirstAtOrBelow(CheckpointRule):
    "Loss levels and fixed steps as a rule that must be asked at every step."
    needs_loss = True
    def __init__(self, levels, steps):
        self.levels, self.steps, self.count = levels, torch.tensor(steps), len(levels) + len(steps)

    def due(self, step, loss, kept):
        now = (self.steps == step).expand(len(loss), -1)
        return torch.cat([loss[:, None] <= self.levels, now], 1) & ~kept


@pytest.mark.parametrize("number", range(4))
def test_a_rule_of_ones_own_changes_no_bits(number):
    start, task, options = case(number)
    levels, steps = options.pop("checkpoints")
    at = steps.steps.tolist()
    rules = [levels, FirstAtOrBelow(levels.levels[:0], at)]
    known = train(start, task, checkpoints=[levels, steps], **options)
    asked = train(start, task, checkpoints=FirstAtOrBelow(levels.levels, at), **options)
    mixed = train(start, task, checkpoints=rules, **options)
    assert_same_bits(known, asked)
    assert_same_bits(known, mixed)


def test_records_at_the_right_steps():
    start, task, options = case(1)
    dense = train(start, task, **options)
    for every, k in product((3, 7, 999, 5000), ("compiled", "torch")):
        sparse = train(start, task, **options, record_every=every, kernel=k)
        assert sparse.steps.tolist() == [*range(0, 1000, every), 1000]
        assert torch.equal(sparse.checkpoint_steps, dense.checkpoint_steps)
        torch.testing.assert_close(sparse.excess, dense.excess[:, sparse.steps], rtol=0, atol=1e-12)
    none = train(start, task, **{**options, "steps": 0, "checkpoints": Steps([0])})
    assert none.excess.shape == (3, 1) and none.steps.tolist() == [0]
    assert torch.equal(none.final[0][0], start[0])


def test_degenerate_data():
    "Samples and inputs that are all zero, a single sample, more inputs than samples."
    few = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    one = torch.zeros(5, 3)
    one[0, 0] = 1.
    for X, d_out in ((one, 2), (torch.ones(1, 4), 3), (few, 2)):
        task = Task(X, torch.ones(len(X), d_out))
        start = gaussian_init((X.shape[1], 5, d_out), gamma=1., seed=0)
        for batch_size in (None, 1, len(X)):
            options = dict(lr=.01, steps=50, batch_size=batch_size, progress=False)
            ours, theirs = (train(start, task, kernel=k, **options) for k in ("compiled", "torch"))
            torch.testing.assert_close(ours.excess, theirs.excess, rtol=0, atol=1e-12)


def test_a_diverged_run_leaves_nothing_behind():
    "Infinities and NaN in the block of memory must not reach the next run; nor with size one."
    for widths, batch_size in product(((3, 4, 2), (1, 5, 1), (4, 1, 3), (2, 1, 1)), (1, 2, 6)):
        task = gaussian_task(torch.ones(widths[-1], widths[0]), n=6, noise=.1)
        one = gaussian_init(widths, gamma=1., seed=0)
        starts = tuple(W.expand(3, *W.shape).clone() for W in one)
        starts[0][0] *= 1e200
        options = dict(lr=.05, steps=60, runs=3, batch_size=batch_size, kernel="compiled")
        mixed, clean = (train(s, task, progress=False, **options) for s in (starts, one))
        assert mixed.diverged.tolist() == [True, False, False]
        assert not mixed.excess[0, -1].isfinite()
        assert torch.equal(mixed.excess[1:], clean.excess[1:])


def python(script, top=TOP, **environment):
    "What a script prints, with the package that lies in a folder `top`."
    done = subprocess.run([sys.executable, "-c", script], cwd=top, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(top)} | environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


TRAIN = """
import json, numpy as np
from dln_nb.foundations.network import gaussian_init
from dln_nb.foundations.task import gaussian_task, teacher_matrix
from dln_nb.training import kernel
from dln_nb.training.checkpoints import LossLevels
from dln_nb.training.minibatches import SAMPLINGS
from dln_nb.training.trainer import Steps, train
task = gaussian_task(teacher_matrix("full-rank", 3, 4), n=20, noise=.1)
start = gaussian_init((4, 7, 3), gamma=1., seed=0)
def go(steps=30, **options):
    return train(start, task, lr=.01, steps=steps, progress=False, **options)
"""


def test_a_second_start_compiles_nothing(tmp_path):
    "Whatever is trained: one signature, compiled once and read from disk from then on."
    script = TRAIN + """
for sampling in SAMPLINGS: go(sampling=sampling, batch_size=3, runs=2)
go(checkpoints=[Steps([2]), LossLevels([1.])], record_every=np.int64(2))
start = tuple(W.expand(2, *W.shape) for W in start)
train(start, task, lr=1, steps=np.int32(3), runs=2, progress=False)
def counts(f):
    hits, misses = (sum(k.values()) for k in (f.stats.cache_hits, f.stats.cache_misses))
    return [hits, misses, len(f.signatures)]
print(json.dumps([counts(kernel._advance), counts(kernel._losses)]))
"""
    first, second = (python(script, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2))
    assert first == [[0, 1, 1]] * 2 and second == [[1, 0, 1]] * 2


def test_nowhere_to_keep_machine_code(tmp_path):
    "Neither package folder nor home can be written: the kernel works, compiled at every start."
    top, home = tmp_path / "read_only", tmp_path / "home"
    shutil.copytree(TOP / "dln_nb", top / "dln_nb", ignore=shutil.ignore_patterns("__pycache__"))
    no_folder = top / "dln_nb" / "training" / "__pycache__"
    no_folder.write_text("a file, so that no folder can be made here")
    home.write_text("likewise")
    script = TRAIN + """
last = go(batch_size=3).excess[0, -1].item()
print(json.dumps([kernel.__file__, last, kernel._advance.stats.cache_path]))
"""
    closed = dict(NUMBA_CACHE_DIR="", HOME=str(home), XDG_CACHE_HOME=str(home))
    where, here, cache = python(script, top, **closed, PYTHONDONTWRITEBYTECODE="1")
    assert Path(where).is_relative_to(top) and cache is None
    assert here == python(script)[1]


def test_nothing_is_allocated_inside():
    "Numba counts the allocations of compiled code: as many for 1000 steps in one call as for 10."
    script = TRAIN + """
from numba.core.runtime import rtsys
def allocated(steps):
    before = rtsys.get_allocation_stats().alloc
    rules = [Steps([2, 5, 9]), LossLevels([1.])]
    go(steps, batch_size=3, runs=2, checkpoints=rules, sampling="replacement")
    return rtsys.get_allocation_stats().alloc - before
go(1) # starts the runtime that counts
allocated(10)
print(json.dumps([allocated(10), allocated(1000)]))
"""
    few, many = python(script, NUMBA_NRT_STATS="1")
    assert few == many > 0

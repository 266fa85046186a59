"What a notebook cannot test: several processes, interruption, the installed command."
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import xarray as xr

from dln_nb.experiments.description import Experiment
from dln_nb.experiments.store import load
from dln_nb.experiments.sweeps import sweep

SMALL = Experiment(width=12, steps=300, lr=.01, runs=3, n_levels=4, points=3, n_boot=50)
GRID = [replace(SMALL, regime=regime, seed=seed) for regime in ("saddle-to-saddle", "NTK") for seed in range(3)]


def test_same_bits_for_any_number_of_workers(tmp_path):
    one, two = (sweep(GRID, tmp_path / str(n), n_jobs=n, progress=False) for n in (1, 2))
    for a, b in zip(one, two):
        xr.testing.assert_identical(load(a), load(b))


def test_unreachable_levels_are_refused_before_any_work(tmp_path):
    with pytest.raises(ValueError, match="levels=1e-09 is not allowed"):
        sweep([*GRID[:2], replace(SMALL, levels=(5., 1e-9))], tmp_path, progress=False)
    assert not list(tmp_path.glob("*.nc"))


def test_a_failure_is_named_and_stops_no_other(tmp_path):
    diverging = replace(SMALL, lr=50., steps=None)
    with pytest.raises(RuntimeError, match="lr=50.0 is not allowed"):
        sweep([diverging, *GRID[:2]], tmp_path, n_jobs=2, progress=False)
    assert {p.name for p in tmp_path.glob("*.nc")} == {e.filename for e in GRID[:2]}


def test_a_run_that_diverges_is_marked(tmp_path):
    "Far above the stability limit all runs diverge; the result is stored, and says so."
    ds = load(*sweep([replace(SMALL, lr=5.)], tmp_path, progress=False))
    assert bool(ds.diverged_gd) and bool(ds.diverged_sgd.all())


SCRIPT = """
from dln_nb.cli import main
from dln_nb import commands
from dln_nb import Experiment
commands.preset_study = lambda preset: [Experiment(width=40, steps=2000, lr=.005, runs=4, n_levels=4, points=3, n_boot=50, seed=s) for s in range(40)]
main(["study", "--out", {out!r}, "--n-jobs", "2", "--no-progress"])
"""


def test_interrupt_keeps_what_is_finished(tmp_path):
    "Ctrl-C reaches the whole process group; whole files stay, no temporary ones, and a message says how to go on."
    command = [sys.executable, "-c", SCRIPT.format(out=str(tmp_path))]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    give_up = time.monotonic() + 120
    while not list(tmp_path.glob("*.nc")) and time.monotonic() < give_up and process.poll() is None: time.sleep(.05)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    finished = list(tmp_path.glob("*.nc"))
    assert 0 < len(finished) < 40
    for path in finished: load(path)
    assert "experiments are finished and stored" in said and "goes on with the others" in said
    # Python itself reports an interrupt that falls into one of its own callbacks; nothing else may print a traceback
    own = re.sub(r"Exception ignored in:.*\nTraceback.*\n(?: .*\n)*KeyboardInterrupt.*\n", "", said)
    assert "Traceback" not in own, said


WATCHED = """
import atexit, time
atexit.register(lambda: print(*(e.comparison.phase for e in explorers))) # the last to be called: what is registered later comes first
from dln_nb import Experiment
from dln_nb.explorer import Explorer
explorers = [Explorer(Experiment(width=32, runs=8, steps=50_000, lr=.001, seed=s)) for s in range(3)]
for e in explorers: e.run()
while min(len(e.comparison.sgd) for e in explorers) < 3: time.sleep(.01)
"""


def test_python_ends_while_explorers_train():
    "Their threads are stopped first: cut off inside PyTorch they would abort the process."
    done = subprocess.run([sys.executable, "-c", WATCHED], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.split() == ["stopped"] * 3, done


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_does_not_grow_with_steps():
    "Ten times the steps, the same number of records and checkpoints: the peak memory stays."
    script = """
from dln_nb.network import gaussian_init
from dln_nb.task import gaussian_task, teacher_matrix
from dln_nb.trainer import Steps, train
task = gaussian_task(teacher_matrix("full-rank", 4, 4), n=50)
start = gaussian_init((4, 64, 64, 4), gamma=2., seed=0)
peak = lambda: int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))) # of this process alone; ru_maxrss starts at the parent's
def go(steps): train(start, task, lr=1e-3, steps=steps, batch_size=2, runs=8, record_every=steps // 10, checkpoints=Steps([0, steps]), progress=False)
go(2000)
before = peak()
go(20_000)
print(peak() - before) # kB; all weights of all steps would take 5 GB
"""
    grown = int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
    assert grown < 20_000


@pytest.mark.parametrize("options", [dict(lr=5.), dict(steps=1), dict(levels=(.3, .25), steps=10), dict(runs=1), dict(depth=1), dict(points=1)],
                         ids=["all diverge", "one step", "no level reached", "one run", "one layer", "one point"])
def test_every_result_has_a_report(tmp_path, options):
    "Whatever happened in an experiment, its figures are drawn and its line is written."
    from dln_nb.figures.report import write_report
    sweep([replace(SMALL, **options)], tmp_path, progress=False)
    assert write_report(tmp_path, progress=False).stat().st_size > 10_000

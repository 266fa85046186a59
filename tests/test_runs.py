"What a notebook cannot test: several processes, interruption, memory, the ends of the settings."
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import xarray as xr

from dln_nb.experiments.description import Experiment
from dln_nb.experiments.store import load
from dln_nb.experiments.sweeps import sweep

HERE = str(Path(__file__).parent)
PATH = os.pathsep.join(filter(None, [HERE, os.environ.get("PYTHONPATH")]))  # for scripts
SMALL = Experiment(width=12, steps=300, lr=.01, runs=3, n_levels=4, points=3, n_boot=50)
GRID = [replace(SMALL, regime=regime, seed=seed)
        for regime in ("saddle-to-saddle", "NTK") for seed in range(2)]


def test_same_bits_for_any_number_of_workers(tmp_path):
    one, two = (sweep(GRID, tmp_path / str(n), n_jobs=n, progress=False) for n in (1, 2))
    for a, b in zip(one, two): xr.testing.assert_identical(load(a), load(b))


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


# Ctrl-C reaches the whole group of processes. It is sent when the bar is told of the third result.
# Both workers have made one before: a worker that is just starting would still listen to it.
INTERRUPTED = """
import os, signal, sys, time
from dataclasses import replace
from pathlib import Path
from joblib import Parallel, delayed
from tqdm.std import tqdm
from dln_nb import cli, commands
from dln_nb.experiments.sweeps import sweep
from dln_nb.foundations.parallel import workers
from test_runs import SMALL

here, grid = Path(sys.argv[1]), [replace(SMALL, measures=("balance",), seed=s) for s in range(40)]
def settle(k): # the two wait for each other, so that each has one of the two tasks
    (here/f"there-{k}").touch()
    while not (here/f"there-{1 - k}").exists(): time.sleep(.01)
    return sweep(grid[k:k+1], here/f"first-{k}", progress=False)
told = []
def update(self, n=1):
    told.append(n)
    if len(told) == 3: os.killpg(0, signal.SIGINT)
def study(preset):
    with workers(2): Parallel()(delayed(settle)(k) for k in range(2))
    tqdm.update = update
    return grid
commands.preset_study = study
cli.main(["study", "--out", str(here/"results"), "--n-jobs", "2", "--no-progress"])
"""


@pytest.mark.parametrize("ignored", [True, pytest.param(False, marks=pytest.mark.slow)],
                         ids=["SIGINT was ignored", "SIGINT was not"])
def test_interrupt_keeps_what_is_finished(tmp_path, ignored):
    "Whole files stay, and a message says how to go on; in the background of a shell, too."
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path)]
    env = os.environ | {"PYTHONPATH": PATH}
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    try: process = subprocess.Popen(command, env=env, text=True, start_new_session=True,
                                    stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    finally: signal.signal(signal.SIGINT, before)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130, said
    finished = list((tmp_path/"results").glob("*.nc"))
    assert 3 <= len(finished) < 40
    for path in finished: load(path)
    assert "experiments are finished and stored" in said and "goes on with the others" in said
    assert "Traceback" not in said, said


WATCHED = """
import atexit, time
# the last to be called: what is registered later comes first
atexit.register(lambda: print(*(e.comparison.phase for e in explorers)))
from dln_nb.experiments.description import Experiment
from dln_nb.explorer.explorer import Explorer
setting = Experiment(width=32, runs=8, steps=10_000_000, lr=.001)
explorers = [Explorer(setting) for _ in range(3)]
for e in explorers: e.run()
while min(len(e.comparison.gd) for e in explorers) < 3: time.sleep(.01)
"""


def test_python_ends_while_explorers_train():
    "Their threads are stopped first: cut off inside PyTorch they would abort the process."
    command = [sys.executable, "-c", WATCHED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.split() == ["stopped"] * 3, done


MEMORY = """
from dln_nb.foundations.network import gaussian_init
from dln_nb.foundations.task import gaussian_task, teacher_matrix
from dln_nb.training.trainer import Steps, train
task = gaussian_task(teacher_matrix("full-rank", 4, 4), n=50)
start = gaussian_init((4, 64, 64, 4), gamma=2., seed=0)
def peak(): # of this process alone; ru_maxrss starts at the parent's
    lines = open("/proc/self/status").readlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
def go(steps):
    train(start, task, lr=1e-3, steps=steps, batch_size=2, runs=8, record_every=steps // 10,
          checkpoints=Steps([0, steps]), progress=False)
go(2000)
before = peak()
go(20_000)
print(peak() - before) # kB; all weights of all steps would take 5 GB
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_does_not_grow_with_steps():
    "Ten times the steps, as many records and checkpoints: the peak memory stays."
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 20_000


@pytest.mark.parametrize("options", [
    pytest.param(dict(lr=5.), id="all diverge"),
    pytest.param(dict(depth=1), id="one layer"),
    pytest.param(dict(steps=1), id="one step", marks=pytest.mark.slow),
    pytest.param(dict(levels=(.3, .25), steps=10), id="no level reached", marks=pytest.mark.slow),
    pytest.param(dict(runs=1), id="one run", marks=pytest.mark.slow),
    pytest.param(dict(points=1), id="one point", marks=pytest.mark.slow)])
def test_every_result_has_a_report(tmp_path, options):
    "Whatever happened in an experiment, its figures are drawn and its line is written."
    from dln_nb.figures.report import write_report
    sweep([replace(SMALL, **options)], tmp_path, progress=False)
    assert write_report(tmp_path, progress=False).stat().st_size > 10_000

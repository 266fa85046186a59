"Kills, crowds, full disks, damaged files: with real processes, at counted moments."
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import xarray as xr

from dln_nb.experiments.description import Experiment
from dln_nb.experiments.folders import status
from dln_nb.experiments.store import beside, claim, load
from dln_nb.experiments.sweeps import sweep

TINY = Experiment(width=8, steps=100, lr=.01, runs=2, n_levels=4, points=3, n_boot=20,
                  measures=("balance",))
GRID = [replace(TINY, regime=regime, seed=seed)
        for regime in ("saddle-to-saddle", "NTK") for seed in range(6)]

# What a child process does. It has imported everything once and then forks: imports take longer
# than the work.
HEAD = """
import json, os, resource, signal, sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
import torch
from dln_nb.experiments import sweeps
from dln_nb.experiments.folders import status
from dln_nb.experiments.store import load, save
from dln_nb.experiments.sweeps import sweep
from test_faults import GRID, TINY, replace
torch.set_num_threads(1)
out = Path(sys.argv[1])
run = sweeps.run
def note(what): # one line for every experiment that is begun
    with open(out.with_name("begun"), "a") as log: log.write(what + "\\n")
def noted_run(e, **options):
    note(e.filename)
    return run(e, **options)
sweeps.run = noted_run
def fork(call):
    if pid := os.fork(): return pid
    try:
        call()
        os._exit(0)
    finally: os._exit(1)
def kill_me(): os.kill(os.getpid(), signal.SIGKILL)
"""
HERE = str(Path(__file__).parent)
PATH = os.pathsep.join(filter(None, [HERE, os.environ.get("PYTHONPATH")]))


def command(script, *args, held=()):
    return [*held, sys.executable, "-c", HEAD + script, *map(str, args)]


def start(script, *args, held=(), env=os.environ):
    "Run a script in a fresh process to its end."
    return subprocess.run(command(script, *args, held=held), capture_output=True, text=True,
                          timeout=300, env=env | {"PYTHONPATH": PATH})


def python(script, *args, **options):
    "What a script printed last, as JSON."
    done = start(script, *args, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    "The results of the grid, from a sweep that nothing happens to."
    out = tmp_path_factory.mktemp("undisturbed")
    return {path.name: load(path) for path in sweep(GRID, out, progress=False)}


def check(out, undisturbed):
    "The results of a disturbed sweep are those of an undisturbed one, and nothing else is left."
    assert {path.name for path in out.glob("*.nc")} == set(undisturbed)
    for name, ds in undisturbed.items(): xr.testing.assert_identical(load(out/name), ds)
    assert {s.state for s in status(out)} == {"done"}
    left = [p.name for p in out.iterdir() if not (p.suffix == ".nc" or p.name.startswith(".plan-"))]
    # a kill may leave temporary files, hidden and never read
    assert all(name.endswith(".tmp") for name in left), left


# The process is killed just before the k-th change of the folder, for every k: a file opened for
# writing, brought to the disk, locked, renamed, removed. Between two changes nothing can be seen
# from outside, so that these are all the moments of the protocol. Results are small, and come from
# memory.
MOMENTS = """
sound, failing, damaged = GRID[:3]
few = ["diverged_gd", "diverged_sgd"]
made = {e.filename: run(e, progress=False)[few] for e in GRID[:3]}
broken = True
def remembered_run(e, **options):
    note(e.filename)
    if broken and e == failing:
        note("failed")
        raise OSError("no space, for once")
    return made[e.filename]
sweeps.run = remembered_run

def life(): # of a folder: a damaged result set aside, one made, one failed, then made after all
    global broken
    with suppress(RuntimeError): sweep(GRID[:3], out, progress=False)
    broken = False
    sweep(GRID[:3], out, progress=False)

CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.truncate", "fcntl.flock"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
def count(at): # call `at` before each change of the folder
    def hook(event, args):
        if event not in CHANGES: return
        if event != "fcntl.flock" and not os.fsdecode(args[0]).startswith(str(out)): return
        if event == "open" and not (args[2] or 0) & WRITING: return
        at(event)
    fsync = os.fsync
    def noted(fd):
        at("os.fsync")
        fsync(fd)
    os.fsync = noted
    sys.addaudithook(hook)

def folder(number):
    global out
    out = Path(sys.argv[1])/str(number)/"results"
    out.mkdir(parents=True)
    (out/damaged.filename).write_bytes(b"half a result")

def ended(pid): return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

folder(0)
def whole_life():
    with open(out.parent/"moments", "w") as moments:
        count(lambda event: print(event, file=moments))
        life()
assert ended(fork(whole_life)) == 0
moments = (out.parent/"moments").read_text().split()

for number in range(1, len(moments) + 1):
    folder(number)
    broken = True
    def killed_life():
        left = iter(range(number - 1, -1, -1))
        count(lambda event: next(left) or kill_me())
        life()
    assert ended(fork(killed_life)) == -signal.SIGKILL
    names = {p.name for p in out.glob("*.nc") if p.read_bytes() != b"half a result"}
    for name in names: assert load(out/name).identical(made[name]), "not whole"
    there = {name: (out/name).stat().st_mtime_ns for name in names}
    states = {s.state for s in status(out)}
    assert states <= {"done", "waiting", "interrupted", "failed", "other", "damaged"}, states
    broken = False
    assert ended(fork(lambda: sweep(GRID[:3], out, progress=False))) == 0
    for name, ds in made.items(): assert load(out/name).identical(ds)
    for name in names: assert (out/name).stat().st_mtime_ns == there[name], "made again"
    assert {s.state for s in status(out)} == {"done"}
    left = {p.name for p in out.iterdir() if p.suffix != ".tmp" and not p.name.startswith(".plan-")}
    assert left == {*made, f"{damaged.filename}.set-aside-1"}, left
    begun = Counter((out.parent/"begun").read_text().split())
    lost = begun.total() - 2 * begun["failed"] - len(made)
    assert lost in (0, 1), begun
print(json.dumps(moments))
"""


def test_killed_at_every_moment(tmp_path):
    "What is there under a final name is whole and is not made again; the next sweep loses nothing."
    moments = python(MOMENTS, tmp_path)
    assert {"open", "os.fsync", "os.rename", "os.remove", "fcntl.flock"} <= set(moments)
    assert moments.count("os.rename") >= 5  # three results, a damaged file, the note of a failure


LOCKED = """
from tqdm.auto import tqdm
sweep(GRID[:1], out) # draws a bar, and so makes the lock of all bars
def hold():
    tqdm.get_lock().acquire()
    kill_me()
os.waitpid(fork(hold), 0)
signal.alarm(60) # for a sweep that waits for the lock of the dead
print(json.dumps(len(sweep(GRID[:2], out))))
"""


def test_killed_with_the_lock_of_the_bars_held(tmp_path):
    "The lock that tqdm makes belongs to the whole family of processes; ours to one of them."
    assert python(LOCKED, tmp_path/"results") == 2


TWO = """
pids = [fork(lambda: sweep(GRID, out, progress=False)) for _ in range(2)]
print(json.dumps([os.waitpid(pid, 0)[1] for pid in pids]))
"""


def test_two_sweeps_share_the_work(tmp_path, undisturbed):
    "Started on the same folder, they make every experiment once."
    out = tmp_path/"results"
    out.mkdir()
    assert python(TWO, out) == [0, 0]
    check(out, undisturbed)
    assert sorted((tmp_path/"begun").read_text().split()) == sorted(undisturbed)


ORPHANS = """
from tqdm.std import tqdm
told = []
def update(self, n=1): # the bar is told of each result: killed at the third
    told.append(n)
    if len(told) == 3: kill_me()
tqdm.update = update
sweep(GRID, out, n_jobs=2, progress=False)
"""


def test_parent_killed_with_workers_at_work(tmp_path, undisturbed):
    "A sweep started at once waits for what the orphaned workers hold, and finishes."
    # no pipes: the orphans would hold them open
    parent = subprocess.Popen(command(ORPHANS, tmp_path), env=os.environ | {"PYTHONPATH": PATH},
                              start_new_session=True)
    assert parent.wait(timeout=300) == -signal.SIGKILL
    try:
        before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*.nc")}
        assert 3 <= len(before) < len(GRID)  # joblib hands out no more than four at once
        sweep(GRID, tmp_path, progress=False)
    finally: os.killpg(parent.pid, signal.SIGKILL)  # the orphans, idle by now
    check(tmp_path, undisturbed)
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())


FULL = """
from dln_nb.cli import main
from dln_nb import commands
commands.preset_study = lambda preset: GRID[:2]
main(["study", "--out", str(out), "--n-jobs", "1", "--no-progress"])
"""


def check_full(done, out, earlier, before):
    "A clear error, no traceback; what was there is there; what failed is named and can be made."
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "failed: OSError" in done.stderr, done.stderr
    assert earlier.read_bytes() == before and not list(out.glob(".*.tmp"))
    assert [p.name for p in out.glob("*.nc")] == [earlier.name]


def test_quota_exceeded(tmp_path, undisturbed):
    "No file may grow beyond half a result."
    out = tmp_path/"results"
    earlier, = sweep(GRID[:1], out, progress=False)
    before = earlier.read_bytes()
    limit = len(before) // 2
    done = start(f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n" + FULL, out)
    check_full(done, out, earlier, before)
    assert "File too large" in done.stderr
    assert [s.state for s in status(out)] == ["done", "failed"]
    sweep(GRID[:2], out, progress=False)
    assert [s.state for s in status(out)] == ["done", "done"]


@pytest.mark.slow
def test_full_disk(tmp_path):
    "A file system of a size for one result only; needs the right to mount one."
    out = tmp_path/"disk"
    out.mkdir()
    earlier, = sweep(GRID[:1], tmp_path/"first", progress=False)
    size = f"size={earlier.stat().st_size * 3 // 2}"
    mount = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", out]
    mounted = subprocess.run(mount, capture_output=True)
    if mounted.returncode: pytest.skip("no right to mount a file system")
    try:
        kept = out/earlier.name
        kept.write_bytes(before := earlier.read_bytes())
        done = start(FULL, out)
        check_full(done, out, kept, before)
        assert "No space left on device" in done.stderr
    finally: subprocess.run(["umount", out], check=True)


def test_what_cannot_be_used_is_set_aside_and_named(tmp_path, undisturbed):
    "A damaged result, somebody else's netCDF file, and a result under the name of another."
    paths = sweep(GRID[:3], tmp_path, progress=False)
    foreign = bytes(undisturbed[paths[1].name].to_netcdf(engine="h5netcdf"))
    contents = [paths[0].read_bytes()[:-1000], foreign, paths[0].read_bytes()]
    for path, content in zip(paths, contents): path.write_bytes(content)
    with pytest.warns(UserWarning) as said: sweep(GRID[:3], tmp_path, progress=False)
    messages = [str(w.message) for w in said]
    for path, content in zip(paths, contents):
        assert (tmp_path/f"{path.name}.set-aside-1").read_bytes() == content
        assert any(path.name in text and "set aside as" in text for text in messages)
        xr.testing.assert_identical(load(path), undisturbed[path.name])


def as_reader():
    "What starts a process for which the modes of files hold; root must be kept from more."
    if os.geteuid(): return []
    if not shutil.which("setpriv"): pytest.skip("root may write everywhere; no setpriv to stop him")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search",
            "--inh-caps=-dac_override,-dac_read_search"]


CLOSED = """
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from dln_nb.cli import main
def said(command): # (exit status, output, errors)
    with redirect_stdout(StringIO()) as o, redirect_stderr(StringIO()) as e:
        try: status = main([command, str(out)])
        except SystemExit as end: status = end.code
    return status or 0, o.getvalue(), e.getvalue()
told = []
for mode, command in ((0o555, "status"), (0o555, "report"), (0o333, "status")):
    out.chmod(mode)
    told.append(said(command))
out.chmod(0o755)
print(json.dumps(told))
"""


def test_a_folder_that_one_may_only_read(tmp_path):
    "Its state is told as far as it can be; what would have to write there is refused in one line."
    done, left, held, hidden, secret = sweep(GRID[:5], tmp_path, progress=False)
    for path in (left, held, hidden): path.unlink()
    for path in (left, hidden): beside(path, "running").touch()
    with claim(held):
        for path in (secret, beside(hidden, "running")): path.chmod(0)
        try: said, *closed = python(CLOSED, tmp_path, held=as_reader())
        finally: tmp_path.chmod(0o755)
    status, text, errors = said
    assert status == 0 and not errors, errors
    told = {line.split()[1]: line.split()[0] for line in text.splitlines() if ".nc " in line}
    assert told == {done.name: "done", left.name: "interrupted", held.name: "running",
                    hidden.name: "unreadable", secret.name: "unreadable"}
    assert f"process {os.getpid()} on" in text
    assert "running or interrupted: its claim cannot be read" in text
    for status, _, errors in closed:
        assert status == 2 and errors.splitlines()[-1].startswith("dln_nb: "), errors


def threads():
    "How many threads a computation would use here."
    import threadpoolctl
    import torch
    torch.ones(2, 2, dtype=torch.float64) @ torch.ones(2, 2, dtype=torch.float64)
    pools = threadpoolctl.threadpool_info()
    return os.getpid(), max([torch.get_num_threads(), *(pool["num_threads"] for pool in pools)])


ONE = """
import test_faults
from joblib import Parallel, delayed
from dln_nb.foundations.parallel import workers
with workers(2): found = Parallel()(delayed(test_faults.threads)() for _ in range(6))
print(json.dumps([os.getpid(), found]))
"""


def test_one_thread_per_worker(tmp_path):
    "Even where nothing in the environment says so."
    env = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    parent, found = python(ONE, tmp_path, env=env)
    assert {n for _, n in found} == {1} and parent not in {pid for pid, _ in found}


CLUSTER = """
from distributed import Client, LocalCluster
def at_the_first_rename(folder): # of a result: it is written, but has not its name yet
    import os, signal, sys
    def hook(event, args):
        if event != "os.rename" or not str(args[1]).startswith(folder): return
        if str(args[1]).endswith(".nc"): os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
if __name__ == "__main__":
    options = dict(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        address, pid = next(iter(client.run(os.getpid).items()))
        client.run(at_the_first_rename, str(out), workers=[address])
        sweep(GRID[:8], out, scheduler=cluster.scheduler_address, progress=False)
        print(json.dumps(pid in client.run(os.getpid).values()))
"""


def test_cluster_loses_a_worker(tmp_path, undisturbed):
    "Two Dask workers, one killed at work: the sweep finishes, with the same bits."
    pytest.importorskip("distributed", reason="needs dln_nb[cluster]")
    out = tmp_path/"results"
    out.mkdir()
    assert python(CLUSTER, out) is False, "the worker was not killed"
    names = {e.filename for e in GRID[:8]}
    assert {p.name for p in out.glob("*.nc")} == names and len(list(out.glob(".*.tmp"))) == 1
    for name in names: xr.testing.assert_identical(load(out/name), undisturbed[name])


@pytest.mark.parametrize("workers, threads, refused", [
    (1, 2, "workers of one thread each"),
    pytest.param(1, 1, "two workers or more", marks=pytest.mark.slow)])
def test_a_cluster_that_does_not_fit_is_refused(tmp_path, workers, threads, refused):
    distributed = pytest.importorskip("distributed", reason="needs dln_nb[cluster]")
    options = dict(n_workers=workers, threads_per_worker=threads, processes=False)
    with distributed.LocalCluster(**options, dashboard_address=None) as cluster:
        with pytest.raises(ValueError, match=refused):
            sweep(GRID[:1], tmp_path, scheduler=cluster.scheduler_address, progress=False)


def test_an_address_where_nobody_listens_is_refused(tmp_path):
    pytest.importorskip("distributed", reason="needs dln_nb[cluster]")
    with pytest.raises(ValueError, match="address of a running Dask scheduler"):
        sweep(GRID[:1], tmp_path, scheduler="nowhere", progress=False)

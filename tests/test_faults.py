"Kills, crowds, full disks, damaged files: with real processes."
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import xarray as xr

from dln_nb.experiments.description import Experiment
from dln_nb.experiments.folders import status
from dln_nb.experiments.store import beside, claim, load
from dln_nb.experiments.sweeps import sweep

TINY = Experiment(width=8, steps=100, lr=.01, runs=2, n_levels=4, points=3, n_boot=20, measures=("balance",))
GRID = [replace(TINY, regime=regime, seed=seed) for regime in ("saddle-to-saddle", "NTK") for seed in range(10)]

# What a child process does; it is started by a process that has imported everything once and then forks: imports take longer than the work.
HEAD = f"""
import json, os, random, signal, sys, time
from dataclasses import replace
from pathlib import Path
import torch
from dln_nb.experiments import sweeps as experiment
from dln_nb import Experiment, sweep
torch.set_num_threads(1)
TINY = {TINY!r}
GRID = [replace(TINY, regime=regime, seed=seed) for regime in ("saddle-to-saddle", "NTK") for seed in range(10)]
out = Path(sys.argv[1])
run = experiment.run
def noted_run(e, **options): # one line for every experiment that is begun
    with open(out.with_name("begun"), "a") as log: log.write(e.filename + "\\n")
    return run(e, **options)
experiment.run = noted_run
def fork(call):
    if pid := os.fork(): return pid
    try: call()
    finally: os._exit(0)
"""


def python(script, *args, timeout=300, **options):
    "Run a script in a fresh process; what it printed, as JSON."
    done = subprocess.run([sys.executable, "-c", HEAD + script, *map(str, args)], capture_output=True, text=True, timeout=timeout, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    "The results of the grid, from a sweep that nothing happens to."
    return {path.name: load(path) for path in sweep(GRID, tmp_path_factory.mktemp("undisturbed"), progress=False)}


def check(out, undisturbed):
    "The results of a disturbed sweep are those of an undisturbed one, and nothing else is left."
    assert {path.name for path in out.glob("*.nc")} == set(undisturbed)
    for name, ds in undisturbed.items(): xr.testing.assert_identical(load(out/name), ds)
    assert {s.state for s in status(out)} == {"done"}
    left = [p.name for p in out.iterdir() if not (p.suffix == ".nc" or p.name.startswith(".plan-"))]
    assert all(name.endswith(".tmp") for name in left), left  # a kill may leave temporary files, hidden and never read


KILLS = """
random.seed(int(sys.argv[2]))
sweep(GRID[:1], out.with_name("warm"), progress=False)
start = time.perf_counter()
sweep(GRID[1:2], out.with_name("warm"), progress=False)
one, report = time.perf_counter() - start, [] # seconds for an experiment, here and now
while len(report) < 12:
    pid = fork(lambda: sweep(GRID, out, progress=False))
    time.sleep(random.uniform(0, 2) * one)
    finished = os.waitpid(pid, os.WNOHANG)[0] != 0
    if not finished:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    report.append(dict(finished=finished, there={p.name: p.stat().st_mtime_ns for p in out.glob("*.nc")}))
    if finished: break
sweep(GRID, out, progress=False)
print(json.dumps(report))
"""


def test_killed_at_random_moments(tmp_path, undisturbed):
    "Twelve SIGKILLs: the same bits in the end; what is there under a final name is whole, and is not made again."
    out = tmp_path/"results"
    out.mkdir()
    seed = random.randrange(1_000_000)
    print("seed", seed)
    report = python(KILLS, out, seed)
    assert len(report) == 12 and not any(r["finished"] for r in report), "the sweep was over before it was killed often enough"
    check(out, undisturbed)
    at_the_end = {p.name: p.stat().st_mtime_ns for p in out.glob("*.nc")}
    for r in report: assert r["there"].items() <= at_the_end.items()  # whole at the kill, since unchanged and whole now
    begun = (tmp_path/"begun").read_text().split()
    assert len(GRID) + 2 <= len(begun) <= len(GRID) + 2 + 12  # at most one lost by each kill; two of the warming-up


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


def test_parent_killed_with_workers_at_work(tmp_path, undisturbed):
    "SIGKILL of the process that started two workers; a sweep that is started at once waits for what the orphans hold, and finishes."
    script = f"from pathlib import Path\nfrom dataclasses import replace\nfrom dln_nb import Experiment, sweep\nsweep([replace({TINY!r}, regime=r, seed=s) for r in ('saddle-to-saddle', 'NTK') for s in range(10)], {str(tmp_path)!r}, n_jobs=2, progress=False)"
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    give_up = time.monotonic() + 60
    while not list(tmp_path.glob("*.nc")) and time.monotonic() < give_up: time.sleep(.01)
    process.kill()
    process.wait()
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*.nc")}
    assert 0 < len(before) < len(GRID)
    sweep(GRID, tmp_path, progress=False)
    check(tmp_path, undisturbed)
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())


def limited(script, out, limit):
    "Run a script whose files may not grow beyond a limit."
    return subprocess.run([sys.executable, "-c", HEAD + script, str(out)], capture_output=True, text=True, timeout=300,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))


FULL = """
from dln_nb.cli import main
from dln_nb import commands
commands.preset_study = lambda preset: GRID[:2]
main(["study", "--out", str(out), "--n-jobs", "1", "--no-progress"])
"""


def check_full(done, out, earlier, before):
    "A clear error, no traceback; what was there is there; what failed is named and can be made later."
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "failed: OSError" in done.stderr, done.stderr
    assert earlier.read_bytes() == before and [p.name for p in out.glob("*.nc")] == [earlier.name] and not list(out.glob(".*.tmp"))


def test_quota_exceeded(tmp_path, undisturbed):
    out = tmp_path/"results"
    earlier, = sweep(GRID[:1], out, progress=False)
    before = earlier.read_bytes()
    done = limited(FULL, out, len(before) // 2)
    check_full(done, out, earlier, before)
    assert "File too large" in done.stderr
    assert [s.state for s in status(out)] == ["done", "failed"]
    sweep(GRID[:2], out, progress=False)
    assert [s.state for s in status(out)] == ["done", "done"]


def test_full_disk(tmp_path):
    "A file system of a size for one result only; needs the right to mount one."
    out = tmp_path/"disk"
    out.mkdir()
    earlier, = sweep(GRID[:1], tmp_path/"first", progress=False)
    size = earlier.stat().st_size
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size * 3 // 2}", "tmpfs", out], capture_output=True).returncode: pytest.skip("no right to mount a file system")
    try:
        kept = out/earlier.name
        kept.write_bytes(before := earlier.read_bytes())
        done = subprocess.run([sys.executable, "-c", HEAD + FULL, str(out)], capture_output=True, text=True, timeout=300)
        check_full(done, out, kept, before)
        assert "No space left on device" in done.stderr
    finally: subprocess.run(["umount", out], check=True)


def test_what_cannot_be_used_is_set_aside_and_named(tmp_path, undisturbed):
    "A damaged result, somebody else's netCDF file, and a result under the name of another."
    paths = [tmp_path/e.filename for e in GRID[:3]]
    sweep(GRID[:3], tmp_path, progress=False)
    contents = [paths[0].read_bytes()[:-1000], bytes(undisturbed[paths[1].name].to_netcdf(engine="h5netcdf")), paths[0].read_bytes()]
    for path, content in zip(paths, contents): path.write_bytes(content)
    with pytest.warns(UserWarning) as said: sweep(GRID[:3], tmp_path, progress=False)
    for path, content in zip(paths, contents):
        assert (tmp_path/f"{path.name}.set-aside-1").read_bytes() == content
        assert any(path.name in str(w.message) and "set aside as" in str(w.message) for w in said)
        xr.testing.assert_identical(load(path), undisturbed[path.name])


def as_reader(*args):
    "The command line, called by somebody who may do only what the modes of the files say; root must be kept from more."
    held = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    if held and not shutil.which("setpriv"): pytest.skip("root may write everywhere, and there is no setpriv to keep him from it")
    return subprocess.run([*held, sys.executable, "-c", "from dln_nb.cli import main; main()", *map(str, args)], capture_output=True, text=True)


def test_a_folder_that_one_may_only_read(tmp_path):
    "Its state is told as far as it can be; what would have to write there is refused in one line."
    done, left, held, hidden, secret = sweep(GRID[:5], tmp_path, progress=False)
    for path in (left, held, hidden): path.unlink()
    for path in (left, hidden): beside(path, "running").touch()
    with claim(held):
        for path in (secret, beside(hidden, "running")): path.chmod(0)
        tmp_path.chmod(0o555)
        try:
            said = as_reader("status", tmp_path)
            refused = as_reader("report", tmp_path)
            tmp_path.chmod(0o333)
            closed = as_reader("status", tmp_path)
        finally: tmp_path.chmod(0o755)
    assert said.returncode == 0 and not said.stderr, said.stderr
    told = {line.split()[1]: line.split()[0] for line in said.stdout.splitlines() if ".nc " in line}
    assert told == {done.name: "done", left.name: "interrupted", held.name: "running", hidden.name: "unreadable", secret.name: "unreadable"}
    assert f"process {os.getpid()} on" in said.stdout and "running or interrupted: its claim cannot be read" in said.stdout
    for end in (refused, closed): assert end.returncode == 2 and end.stderr.splitlines()[-1].startswith("dln_nb: ") and "Traceback" not in end.stderr, end.stderr


def threads():
    "How many threads a computation would use here."
    import threadpoolctl
    import torch
    torch.ones(2, 2, dtype=torch.float64) @ torch.ones(2, 2, dtype=torch.float64)
    return os.getpid(), max([torch.get_num_threads(), *(pool["num_threads"] for pool in threadpoolctl.threadpool_info())])


ONE = """
import test_faults
from joblib import Parallel, delayed
from dln_nb.foundations.parallel import workers
with workers(2): found = Parallel()(delayed(test_faults.threads)() for _ in range(6))
print(json.dumps([os.getpid(), found]))
"""


def test_one_thread_per_worker(tmp_path):
    "Even where nothing in the environment says so."
    env = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")} | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])}
    parent, found = python(ONE, tmp_path, env=env)
    assert {n for _, n in found} == {1} and parent not in {pid for pid, _ in found}


CLUSTER = """
from distributed import Client, LocalCluster
if __name__ == "__main__":
    grid = [replace(e, steps=1000) for e in GRID[:8]]
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        first = list(client.run(os.getpid).values())
        def kill_one():
            while len(list(out.glob("*.nc"))) < 2: time.sleep(.02)
            os.kill(first[0], signal.SIGKILL)
        import threading
        killer = threading.Thread(target=kill_one)
        killer.start()
        sweep(grid, out, scheduler=cluster.scheduler_address, progress=False)
        killer.join()
        there = first[0] in client.run(os.getpid).values()
    print(json.dumps(dict(there=there, names=[e.filename for e in grid])))
"""


def test_cluster_loses_a_worker(tmp_path):
    "Two Dask worker processes, one of them killed at work: the sweep finishes, with the same bits."
    pytest.importorskip("distributed", reason="needs dln_nb[cluster]")
    out = tmp_path/"results"
    out.mkdir()
    said = python(CLUSTER, out)
    assert not said["there"] and sorted(p.name for p in out.glob("*.nc")) == sorted(said["names"])
    own = sweep([replace(e, steps=1000) for e in GRID[:8]], tmp_path/"own", progress=False)
    for path in own: xr.testing.assert_identical(load(out/path.name), load(path))


def test_cluster_must_have_single_threads(tmp_path):
    "Workers with several threads are refused, and so is an address where nobody listens."
    pytest.importorskip("distributed", reason="needs dln_nb[cluster]")
    from distributed import LocalCluster
    with LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster:
        with pytest.raises(ValueError, match="workers of one thread each"): sweep(GRID[:1], tmp_path, scheduler=cluster.scheduler_address, progress=False)
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        with pytest.raises(ValueError, match="two workers or more"): sweep(GRID[:1], tmp_path, scheduler=cluster.scheduler_address, progress=False)
    with pytest.raises(ValueError, match="address of a running Dask scheduler"): sweep(GRID[:1], tmp_path, scheduler="nowhere", progress=False)

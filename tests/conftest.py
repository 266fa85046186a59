"What a notebook cannot test: the repository itself, processes, crashes."
import json
import os
from pathlib import Path

# One thread per process, set before numpy or torch is imported; child processes inherit it.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
# nbdev_export does nothing where nbdev_test has set this.
os.environ.pop("IN_TEST", None)


def pytest_terminal_summary(terminalreporter):
    "The ten slowest notebooks, where `make test` has just run them; the tests: --durations=10."
    times = Path(os.environ.get("DLN_NB_TIMES", "no such file"))
    if not times.is_file(): return
    slowest = sorted(json.loads(times.read_text()).items(), key=lambda item: -item[1])[:10]
    terminalreporter.section("slowest 10 notebooks")
    for name, seconds in slowest: terminalreporter.write_line(f"{seconds:.2f}s {name}")

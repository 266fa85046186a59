"What every benchmark shares: one thread, the machine's name, the time of a call, a table on disk."

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[name] = "1"  # before numpy and torch

import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import torch

torch.set_num_threads(1)
RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    "Processor, cores and versions, for the head of a table."
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )
    packages = ", ".join(f"{p} {version(p)}" for p in ("torch", "numpy", "scipy"))
    return f"{cpu}, {os.cpu_count()} cores; Python {platform.python_version()}, {packages}"


def seconds(
    call: Callable[[], object],
    *,
    repeats: int = 5,
    # wall time; process_time: time of this process on the processor, whatever else runs
    clock: Callable[[], float] = perf_counter,
) -> float:
    "Median time of a call; a first call outside the count warms caches up."
    call()
    times = []
    for _ in range(repeats):
        start = clock()
        call()
        times.append(clock() - start)
    return statistics.median(times)


def write_table(
    name: str,  # file name in results/, without ending
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str] = (),  # one paragraph each
) -> Path:
    "A Markdown table with title, machine and notes; printed and stored."
    line = lambda cells: "| " + " | ".join(cells) + " |"
    text = (
        "\n\n".join(
            [
                f"# {title}",
                f"Machine: {machine()}. Command: `python benchmarks/{Path(sys.argv[0]).name}`.",
                "\n".join([line(columns), line(["---"] * len(columns)), *map(line, rows)]),
                *notes,
            ]
        )
        + "\n"
    )
    print(text)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.md"
    path.write_text(text, encoding="utf-8")
    return path

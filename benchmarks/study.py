"Where the time of `make run` goes: the quick study by stages, and as it is run, with two workers."

import resource
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from common import seconds, write_table  # sets one thread before numpy and torch

BOUNDS = {  # what keeps a stage from being faster
    "imports": "PyTorch (half of it), scipy.signal, xarray, matplotlib; paid by the program and "
    "once by each worker",
    "training": "many small matrix products, one after another: a step needs the one before",
    "measures": "SVDs of many small matrices",
    "bootstrap, statistics, tangent kernel": "memory traffic of resampled means",
    "writing results": "h5netcdf, some 5 ms for each of 150 variables",
    "reading results": "h5py, under 1 ms for each of 150 variables",
    "drawing": "matplotlib's layout and text, in Python",
    "page": "base64 of the figures",
}


@contextmanager
def counted(spent: Counter, stage: str):
    "Add the processor time inside to a stage; stages inside stages are taken out by the caller."
    start = time.process_time()
    yield
    spent[stage] += time.process_time() - start


def counting(spent: Counter, stage: str, function):
    "The function, with its processor time added to a stage."

    def call(*args, **options):
        with counted(spent, stage):
            return function(*args, **options)

    return call


def stages() -> Counter:
    "Processor seconds of each stage, everything in this process."
    spent = Counter()
    with counted(spent, "imports"):
        from dln_nb.experiments import description as experiment, variables
        from dln_nb.experiments.store import save
        from dln_nb.figures import report
    experiment.train = counting(spent, "training", experiment.train)
    variables.Kept.apply = counting(spent, "measures", variables.Kept.apply)
    variables.apply_pairs = counting(spent, "measures", variables.apply_pairs)
    with TemporaryDirectory() as out:
        paths, results = [], []
        for e in experiment.study("quick"):
            with counted(spent, "run"):
                ds = experiment.run(e, progress=False)
            with counted(spent, "writing results"):
                paths.append(save(ds, Path(out) / e.filename))
        with counted(spent, "reading results"):
            results = report.load_results(out)
        with counted(spent, "drawing"):
            report.make_figures(out, results=results[0], progress=False)
        with counted(spent, "page"):
            report.write_report(out, results=results, progress=False)
    spent["bootstrap, statistics, tangent kernel"] = (
        spent.pop("run") - spent["training"] - spent["measures"]
    )
    return spent


def whole(*again) -> tuple[float, float]:  # wall and processor seconds
    "The quick study as `make run` calls it."
    with TemporaryDirectory() as out:
        for _ in range(1 + len(again)):  # a second time: everything is there
            before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            subprocess.run(
                [
                    sys.executable,
                    "-c",
                    "from dln_nb.cli import main; main()",
                    "study",
                    "--preset",
                    "quick",
                    "--out",
                    out,
                    "--no-progress",
                ],
                check=True,
                capture_output=True,
            )
            wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    spent = stages()
    total = sum(spent.values())
    (wall, cpu), (wall_again, cpu_again) = whole(), whole("again")
    largest = [stage for stage, _ in spent.most_common(3)]
    help_time = seconds(
        lambda: subprocess.run(
            [sys.executable, "-c", "from dln_nb.cli import main; main()", "--help"],
            check=True,
            capture_output=True,
        )
    )
    write_table(
        "study",
        "The quick study (`make run` after installation)",
        ["stage", "processor time, s", "share", "bound by"],
        [
            [
                f"**{stage}**" if stage in largest else stage,
                f"{t:.1f}",
                f"{t / total:.0%}",
                BOUNDS[stage],
            ]
            for stage, t in spent.most_common()
        ],
        [
            f"The three largest are {', '.join(largest)}. Everything in one process takes "
            f"{total:.0f} s of processor time.",
            f"As `make run` calls it, with two workers: {wall:.0f} s by the clock, {cpu:.0f} s "
            f"of processor time. Once more, with everything there: {wall_again:.0f} s, "
            f"{cpu_again:.0f} s. `dln_nb --help`: {help_time:.2f} s.",
            "The clock tells the truth on an idle machine only; processor time is also inflated, "
            "but less, where other programs run.",
        ],
    )

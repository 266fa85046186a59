"""`nbdev_test`, each notebook in a process of its own; same options.

nbdev runs all notebooks of a worker in one process, where what one of them sets (a Dask client, a
style of matplotlib, a variable of the environment) would reach the next. Here each starts afresh:
forked from a server that has imported the libraries and nothing else, since imports take longer
than many a notebook. The times go to the file named by DLN_NB_TIMES, for the list at the end.
"""
import json
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import nbdev.test
from fastcore.foundation import L

LIBRARIES = ["nbdev.test", "torch", "xarray", "h5netcdf", "matplotlib.pyplot", "scipy.stats",
             "numba", "pandas"]


def in_fresh_processes(test, files, *, n_workers=0, basepath=None, pause=0, **options):
    "What `nbdev.test` asks of `fastcore.parallel.parallel`."
    context = get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    with ProcessPoolExecutor(n_workers or 1, context, max_tasks_per_child=1) as pool:
        found = L(pool.map(partial(test, basepath=basepath, **options), files))
    if to := os.environ.get("DLN_NB_TIMES"):
        names = [str(Path(f).relative_to(basepath)) for f in files]
        Path(to).write_text(json.dumps(dict(zip(names, [seconds for _, seconds in found]))))
    return found


if __name__ == "__main__":
    nbdev.test.parallel = in_fresh_processes
    nbdev.test.nbdev_test()

"Saddles per second: 10 000 of four layers sampled, refined, certified and classified on two cores."

import argparse
import os
import resource
from time import perf_counter, process_time

import torch
from common import write_table  # first: it sets one thread per process
from joblib import Parallel, delayed, parallel_config

from dln_nb.foundations.task import gaussian_task, teacher_matrix
from dln_nb.saddles.certificates import certify
from dln_nb.saddles.normal_form import critical_point, residual_sigma
from dln_nb.saddles.proposals import chain_points
from dln_nb.saddles.refinement import refine_blocks
from dln_nb.saddles.sampler import gap_patterns, join_saddles, saddle_chunks

DRAWS, CHAINS = 20, 50  # points of each chain, chains of each chunk
CASES = [((8, 8, 8, 8, 8), (1, 3)), ((6, 8, 8, 8, 6), (1, 2)), ((8, 7, 6, 7, 8), ())]
COLUMNS = [
    "widths", "modes", "P", "wall, 2 processes", "CPU / 2",
    "CPU ms per point: sample + refine + certify + classify", "peak memory of a process",
    "load before", "converged", "median ‖∇ℓ‖", "largest ‖∇ℓ‖", "LM steps (most)", "classes",
    "ambiguous", "kinds", "largest R̂", "MALA acceptance",
]
METHOD = (
    "Method: sgld with the default settings, 20 draws from each chain, chunks of 50 chains. The "
    "wall time is that of two worker processes, once they run; CPU / 2 is their processor time "
    "over two, what the wall time would be on two cores without other load. Ambiguous: ranks "
    "without a gap of a factor 100 to either side, or not in accord with the Hessian's signs of "
    "eigenvalues; R̂ is the largest of those of the constraint energy and of the squared norms of "
    "the residual blocks."
)


def task_for(widths):
    "A full-rank teacher with general inputs and noise."
    teacher = teacher_matrix("full-rank", widths[-1], widths[0], seed=0)
    return gaussian_task(teacher, n=200, noise=.3, aligned=False, input_spectrum=.5, seed=0)


def timed_chunk(widths, modes, blocks):
    "A chunk, with the processor time it took and the peak memory of the process so far."
    torch.set_num_threads(1)
    start, size = process_time(), DRAWS * len(blocks)
    shape = dict(n=size, chunk=size, draws=DRAWS, blocks=blocks)
    (found,) = saddle_chunks(task_for(widths), widths, modes=modes, seed=0, **shape)
    return found, process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def stages(widths, modes) -> list[float]:  # ms per point, processor time of one core
    "What each stage takes, on one chunk."
    task, times = task_for(widths), [process_time()]
    Z, _ = chain_points(task, widths, modes, blocks=range(CHAINS), draws=DRAWS, seed=0)
    times.append(process_time())
    solved, _ = refine_blocks(Z, residual_sigma(task, modes))
    Ws = critical_point(task, solved, modes)
    times.append(process_time())
    certify(Ws, task)
    times.append(process_time())
    gap_patterns(Ws, task)
    times.append(process_time())
    return [1e3 * (b - a) / (CHAINS * DRAWS) for a, b in zip(times, times[1:])]


def row(widths, modes, times, n) -> list[str]:  # of the table
    "The whole sample in two processes, once they run."
    blocks, load = -(-n // DRAWS), os.getloadavg()[0]
    jobs = [range(b, min(b + CHAINS, blocks)) for b in range(0, blocks, CHAINS)]
    with parallel_config(backend="loky", inner_max_num_threads=1):
        pool = Parallel(n_jobs=2)
        pool(delayed(task_for)(widths) for _ in range(4))  # start the workers, let them import
        start = perf_counter()
        parts, cpu, memory = zip(*pool(delayed(timed_chunk)(widths, modes, some) for some in jobs))
        wall = perf_counter() - start
    found = join_saddles(list(parts), n)
    grad, steps = found.grad_norm[found.converged], found.iterations
    kinds = ", ".join(f"{kind}: {count}" for kind, count in found.certificate.count().items())
    return [
        f"{widths}", f"{list(modes)}", f"{sum(W[0].numel() for W in found.weights)}",
        f"{wall:.0f} s", f"{sum(cpu) / 2:.0f} s", " + ".join(f"{t:.2f}" for t in times),
        f"{max(memory) / 1024:.0f} MiB", f"{load:.1f}", f"{int(found.converged.sum())}",
        f"{grad.median():.0e}", f"{grad.max():.0e}",
        f"{float(steps.double().mean()):.1f} ({int(steps.max())})", f"{len(found.classes)}",
        f"{int(found.ambiguous.sum())}", kinds, f"{found.diagnostics.rhat.max():.2f}",
        f"{found.acceptance:.2f}",
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=10_000, help="saddles of each network")
    n = parser.parse_args().n
    times = [stages(*case) for case in CASES]
    rows = [row(*case, each, n) for case, each in zip(CASES, times)]
    write_table("saddles", f"{n} saddles of four layers", COLUMNS, rows, [METHOD])

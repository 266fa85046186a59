"Do two processes train twice as many runs in the same time?"
from common import write_table

import time

import numpy as np
from joblib import Parallel, delayed

from training import ours

ROUNDS, SIZES, RUNS = 15, (16, 32, 64), 16


def work(d:int, steps:int)->float: # seconds
    start = time.perf_counter()
    ours(d, RUNS)(steps)
    return time.perf_counter() - start


def compare(d:int, pool)->tuple[float, float]: # seconds
    "Wall time of two equal trainings, one after the other in one process and side by side in two; the best of many, in turn."
    steps = 100
    both = lambda: pool(delayed(work)(d, steps) for _ in range(2))
    both() # starts the processes, loads the machine code
    steps = max(100, int(.3 * steps / min(both())))
    one = two = np.inf
    for _ in range(ROUNDS):
        start = time.perf_counter(); both(); two = min(two, time.perf_counter() - start)
        start = time.perf_counter()
        for _ in range(2): pool([delayed(work)(d, steps)])
        one = min(one, time.perf_counter() - start)
    return one, two


if __name__ == "__main__":
    with Parallel(n_jobs=2) as pool: results = {d: compare(d, pool) for d in SIZES}
    rows = [[str(d), f"{one:.3f}", f"{two:.3f}", f"{one / two:.2f}"] for d, (one, two) in results.items()]
    worst = min(one / two for one, two in results.values())
    write_table("training_workers", "Two workers against one", ["d", "one worker (s)", "two workers (s)", "speed-up"], rows, [
        f"Wall time of two trainings of {RUNS} runs each, L = 4, b = 32; the best of {ROUNDS}, in turn. Meaningful only where both cores are free.",
        f"{'Reached' if worst >= 1.8 else 'NOT REACHED'}: two workers at least 1.8 times as fast as one (worst case {worst:.2f})."])

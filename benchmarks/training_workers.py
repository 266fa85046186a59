"Do two processes train twice as many runs in the same time?"

import os
import time

import numpy as np
from common import write_table
from joblib import Parallel, delayed
from training import ours

ROUNDS, SIZES, RUNS = 15, (16, 32, 64), 16


def work(d: int, steps: int) -> float:  # CPU seconds
    start = time.process_time()
    ours(d, RUNS)(steps)
    return time.process_time() - start


def compare(d: int, pool) -> tuple[float, float, float, float]:  # seconds
    "Two equal trainings, in turn and side by side: wall time of both, CPU time of each; the best."
    steps, best = 1000, [np.inf] * 4
    together = lambda: pool(delayed(work)(d, steps) for _ in range(2))
    in_turn = lambda: [pool([delayed(work)(d, steps)])[0] for _ in range(2)]
    together()  # starts the processes, loads the machine code
    steps = max(100, int(0.3 * steps / min(together())))
    for _ in range(ROUNDS):
        for k, both in enumerate((in_turn, together)):
            start = time.perf_counter()
            cpu = np.mean(both())
            best[k], best[k + 2] = min(best[k], time.perf_counter() - start), min(best[k + 2], cpu)
    return best


if __name__ == "__main__":
    with Parallel(n_jobs=2) as pool:
        results = {d: compare(d, pool) for d in SIZES}
    rows = [
        [
            str(d),
            f"{one:.3f}",
            f"{two:.3f}",
            f"{one / two:.2f}",
            f"{alone:.3f}",
            f"{beside:.3f}",
            f"{2 * alone / beside:.2f}",
        ]
        for d, (one, two, alone, beside) in results.items()
    ]
    worst = min(one / two for one, two, _, _ in results.values())
    write_table(
        "training_workers",
        "Two workers against one",
        [
            "d",
            "one worker, wall (s)",
            "two workers, wall (s)",
            "speed-up",
            "CPU alone (s)",
            "CPU side by side (s)",
            "speed-up by CPU time",
        ],
        rows,
        [
            f"Two trainings of {RUNS} runs each, L = 4, b = 32, one after the other or side by "
            f"side; the best of {ROUNDS}, in turn. The wall times say something only where both "
            f"cores are free (load average during this run: {os.getloadavg()[0]:.1f}, of which 2 "
            "are the workers). "
            "By CPU time: twice the work in the CPU time of one of the two, which shows what the "
            "workers take from each other (cache, memory), on a busy machine too.",
            f"{'Reached' if worst >= 1.8 else 'NOT REACHED'}: two workers at least 1.8 times as "
            f"fast as one (worst case {worst:.2f}).",
        ],
    )

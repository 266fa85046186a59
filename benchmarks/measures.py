"What a measure costs for each network at a checkpoint, beside `svdvals` of all partial products."

import time
from dataclasses import replace
from functools import partial

import torch
from common import seconds, write_table  # sets one thread before numpy and torch

from dln_nb.experiments.description import Experiment, initial_weights, make_task
from dln_nb.experiments.schedule import stable_lr
from dln_nb.experiments.variables import MEASURES, Kept, Options
from dln_nb.foundations.network import partial_products
from dln_nb.training.trainer import Steps, train

CASES = [dict(width=16, depth=4), dict(width=64), dict(width=128)]
RUNS, CHECKPOINTS = 4, 6
OPTIONS = Options(eps=(1e-5, 0.01), n_boot=200)


def trained(e: Experiment) -> tuple[Kept, Kept]:
    "GD and SGD at some moments of their way from saddle to saddle."
    task, start = make_task(e), initial_weights(e)
    lr = stable_lr(start, task)
    steps = [round(2000 * k / (CHECKPOINTS - 1)) for k in range(CHECKPOINTS)]
    options = dict(lr=lr, steps=steps[-1], checkpoints=Steps(steps), progress=False)
    return tuple(
        Kept(t.weights, t.checkpoint_steps >= 0)
        for t in (
            train(start, task, **options),
            train(start, task, batch_size=2, runs=RUNS, **options),
        )
    )


def svdvals(*kept: Kept) -> None:
    "What one would write without thinking about the floor."
    for k in kept:
        for A in partial_products(k.weights).values():
            torch.linalg.svdvals(A)


def times(e: Experiment) -> dict[str, float]:  # processor seconds for each network at a checkpoint
    gd, sgd = trained(e)
    n, task, clock = (
        (1 + RUNS) * CHECKPOINTS,
        make_task(e),
        partial(seconds, repeats=1, clock=time.process_time),
    )
    fresh = lambda: tuple(
        Kept(k.weights, k.present) for k in (gd, sgd)
    )  # without the singular values computed before
    found = {
        "plain svdvals": clock(lambda: svdvals(gd, sgd)),
        "singular values, accurate": clock(lambda: [k.singular_values for k in fresh()]),
    }
    for name, measure in MEASURES.items():
        found[name] = clock(
            lambda: measure(gd, sgd, task, OPTIONS)
        )  # singular values are there: computed once for all measures
    return {name: t / n for name, t in found.items()}


if __name__ == "__main__":
    base = Experiment(regime="saddle-to-saddle")
    results = {
        f"L = {e.depth}, width {e.width}": times(e)
        for e in (replace(base, **case) for case in CASES)
    }
    names = list(next(iter(results.values())))
    rows = [
        [
            name,
            *(
                f"{1e6 * r[name]:.0f} ({r[name] / r['plain svdvals']:.2g})"
                for r in results.values()
            ),
        ]
        for name in names
    ]
    write_table(
        "measures",
        "Cost of the measures",
        ["", *results],
        rows,
        [
            "µs of processor time for each network at a checkpoint (in parentheses: relative to "
            f"plain `torch.linalg.svdvals` of all partial products), {1 + RUNS} runs at "
            f"{CHECKPOINTS} checkpoints, once, after a first time that does not count. "
            "The plain spectra lose everything below 1e-16 of the largest singular value; the "
            "accurate ones are right to the floor of 1e-30. They are computed once for rank "
            "patterns, spectra and deviations, whose rows are what comes on top: thresholds, "
            "statistics and bootstrap bands (200 resamples). gauge and deviations rotate hidden "
            "layers into each other."
        ],
    )

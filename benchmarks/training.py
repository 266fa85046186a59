"How fast is a step of SGD, beside what one would otherwise do and what the processor can?"

import os
import time
from collections.abc import Callable
from importlib.metadata import version
from itertools import islice

import matplotlib.pyplot as plt
import numpy as np
import torch
from common import RESULTS, write_table  # sets the number of threads: before numpy, torch and jax
from scipy.linalg.blas import dgemm
from torch.utils.data import DataLoader, TensorDataset

from dln_nb.foundations.network import gaussian_init
from dln_nb.foundations.task import Task, gaussian_task, teacher_matrix
from dln_nb.training.kernel import step_flops
from dln_nb.training.minibatches import minibatches
from dln_nb.training.trainer import train

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")  # one thread for JAX too
try:
    import jax
except ImportError:
    jax = None

DEPTH, BATCH, N, LR, SEED = 4, 32, 512, 1e-3, 0
LARGE = 512  # size of the matrices whose product says what the processor can do
SIZES, RUNS, ROUNDS, PIECE = (
    (8, 16, 32, 64, 128),
    (1, 32),
    12,
    0.1,
)  # PIECE: seconds of a competitor in one round, at least


def make_task(d: int) -> Task:
    return gaussian_task(teacher_matrix("full-rank", d, d), n=N, noise=0.1)


def make_start(d: int, depth: int = DEPTH):
    return gaussian_init((d,) * (depth + 1), gamma=1.0, seed=SEED)


def one_core() -> None:
    "The same core for all competitors, where the system lets one choose."
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def interleaved(
    calls: dict[str, Callable[[int], object]],  # by name: do so many steps
    *,
    piece: float = PIECE,
    rounds: int = ROUNDS,
    clock: Callable[
        [], float
    ] = time.process_time,  # CPU seconds: waiting for a core that others use does not count
) -> dict[str, float]:
    "Seconds per step of each: the best of many short pieces taken in turn, at equal disturbances."
    steps, best = {}, {name: np.inf for name in calls}
    for name, call in calls.items():
        n, took = 100, 0.0
        while took < piece / 2:  # more and more steps, until they fill the time
            n = n if not took else int(n * min(10, piece / took)) + 1
            call(n)  # compiles, for JAX anew for every number of steps
            start = clock()
            call(n)
            took = max(clock() - start, 1e-6)
        steps[name] = n
    for _ in range(rounds):
        for name, call in calls.items():
            start = clock()
            call(steps[name])
            best[name] = min(best[name], (clock() - start) / steps[name])
    return best


# Each competitor: a function of the number of steps that trains S runs from the same start.


def plain_loop(d, S):
    "As in most public codes: layers, a data loader, automatic differentiation, one run."
    task = make_task(d)

    def go(steps):
        net = torch.nn.Sequential(
            *(torch.nn.Linear(d, d, bias=False, dtype=torch.float64) for _ in range(DEPTH))
        )
        for layer, W in zip(net, make_start(d)):
            layer.weight.data.copy_(W)
        optimiser = torch.optim.SGD(net.parameters(), lr=LR)
        loader = DataLoader(TensorDataset(task.X, task.Y), batch_size=BATCH, shuffle=True)

        def batches():
            while True:
                yield from loader

        for x, y in islice(batches(), steps):
            optimiser.zero_grad()
            (0.5 * (y - net(x)).square().sum(1).mean()).backward()
            optimiser.step()
        return [layer.weight.data for layer in net]

    return go


def indices(S, steps):  # (steps, S, BATCH); given to the competitors below for nothing
    return np.stack(
        [list(islice(minibatches(N, BATCH, seed=SEED, run=r), steps)) for r in range(S)], 1
    )


def torch_vmap(d, S):
    "All runs at once by torch.func.vmap over torch.func.grad."
    task, drawn = make_task(d), torch.from_numpy(indices(S, 1000))
    gradients = torch.func.vmap(
        torch.func.grad(lambda Ws, x, y: 0.5 * (y - forward(Ws, x)).square().sum(1).mean())
    )

    def go(steps):
        Ws = tuple(W.expand(S, d, d).clone() for W in make_start(d))
        for t in range(steps):
            index = drawn[t % len(drawn)]
            Ws = tuple(W - LR * g for W, g in zip(Ws, gradients(Ws, task.X[index], task.Y[index])))
        return Ws

    return go


def forward(Ws, x):
    for W in Ws:
        x = x @ W.T
    return x


def jax_scan(d, S):
    "All runs and steps in one compiled function: jit of vmap of scan."
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    task = make_task(d)
    X, Y = jnp.array(task.X.numpy()), jnp.array(task.Y.numpy())
    gradient = jax.grad(lambda Ws, x, y: 0.5 * jnp.square(y - forward(Ws, x)).sum(1).mean())

    def step(Ws, index):
        return tuple(W - LR * g for W, g in zip(Ws, gradient(Ws, X[index], Y[index]))), None

    train_all = jax.jit(
        jax.vmap(lambda Ws, order: jax.lax.scan(step, Ws, order)[0], in_axes=(None, 1))
    )
    start, drawn = tuple(jnp.array(W.numpy()) for W in make_start(d)), {}

    def go(steps):
        if steps not in drawn:
            drawn[steps] = jnp.array(np.resize(indices(S, min(steps, 1000)), (steps, S, BATCH)))
        return jax.block_until_ready(train_all(start, drawn[steps]))

    return go


def ours(d, S, *, every=None, depth=DEPTH, batch=BATCH, **options):
    "This package, order of data drawn. `every`: steps between exact losses; None: at the ends."
    task, start = make_task(d), make_start(d, depth)
    return lambda steps: (
        train(
            start,
            task,
            lr=LR,
            steps=steps,
            batch_size=batch,
            runs=S,
            seed=SEED,
            record_every=every or max(1, steps),
            progress=False,
            **options,
        ).final
    )


def multiply():
    "BLAS on a large matrix product, what the processor can do: one product for every step."
    A, B, C = (
        np.asfortranarray(np.random.default_rng(k).standard_normal((LARGE, LARGE)))
        for k in range(3)
    )

    def go(steps):
        for _ in range(steps):
            dgemm(1.0, A, B, beta=0.0, c=C, overwrite_c=True)

    return go


COMPETITORS = {
    "nn.Sequential + DataLoader": plain_loop,
    "torch vmap(grad)": torch_vmap,
    "dln_nb, torch": lambda d, S: ours(d, S, kernel="torch"),
    **({"JAX jit(vmap(scan))": jax_scan} if jax else {}),
    "dln_nb, compiled": ours,
}
COLOURS = dict(
    zip(COMPETITORS, ("#999999", "#E69F00", "#56B4E9", *(["#CC79A7"] if jax else []), "#0072B2"))
)


def check() -> None:
    "The competitors with the same order of the data end at the same weights: they do the same."
    results = {name: COMPETITORS[name](16, 3)(20) for name in list(COMPETITORS)[1:]}
    for name, Ws in results.items():
        for a, b in zip(Ws, results["dln_nb, compiled"]):
            np.testing.assert_allclose(np.asarray(a), b.numpy(), atol=1e-12, err_msg=name)


def measure() -> dict:
    "{(d, S): {name: seconds per run and step}}; `limit`: its operations in a large product."
    results = {}
    for d in SIZES:
        for S in RUNS:
            seconds = interleaved(
                {name: make(d, S) for name, make in COMPETITORS.items()}
                | {"with exact loss": ours(d, S, every=1), "limit": multiply()}
            )
            speed = 2 * LARGE**3 / seconds.pop("limit")
            per_run = {
                name: t / (1 if name.startswith("nn.") else S) for name, t in seconds.items()
            }
            results[d, S] = per_run | {
                "limit": step_flops((d,) * (DEPTH + 1), BATCH) / speed,
                "speed": speed,
            }
            print(
                d,
                S,
                {k: f"{v * 1e6:.1f}" for k, v in results[d, S].items() if k != "speed"},
                f"{speed / 1e9:.1f} GF/s",
                flush=True,
            )
    return results


def targets(results) -> list[str]:
    "What is to be reached, and whether it is."
    ours, worst = (
        "dln_nb, compiled",
        lambda f, sizes: max(f(results[d, S]) for d in sizes for S in RUNS),
    )
    lines = [
        (
            "at most 2.2 × the limit at d = 32 and 64",
            worst(lambda r: r[ours] / r["limit"], (32, 64)),
            2.2,
        ),
        ("at most 3 × the limit at d = 16", worst(lambda r: r[ours] / r["limit"], (16,)), 3.0),
        (
            "exact loss at every step for less than 60 % more at d = 32",
            worst(lambda r: r["with exact loss"] / r[ours] - 1, (32,)),
            0.6,
        ),
        (
            "at most 1/20 of the plain loop at d ≤ 32",
            worst(lambda r: r[ours] / r["nn.Sequential + DataLoader"], (8, 16, 32)),
            1 / 20,
        ),
    ]
    if jax:
        lines.append(
            (
                "not slower than JAX at d = 16, 32, 64",
                worst(lambda r: r[ours] / r["JAX jit(vmap(scan))"], (16, 32, 64)),
                1.0,
            )
        )
    return [
        f"{'Reached' if value <= bound else 'NOT REACHED'}: {what} (worst case {value:.2g})."
        for what, value, bound in lines
    ]


def figure(results) -> None:
    fig, axes = plt.subplots(1, len(RUNS), figsize=(10.5, 3.4), sharey=True, layout="constrained")
    for ax, S in zip(axes, RUNS):
        for name in COMPETITORS:
            ax.loglog(
                SIZES,
                [1e6 * results[d, S][name] for d in SIZES],
                "o-",
                ms=4,
                color=COLOURS[name],
                label=name,
            )
        ax.loglog(
            SIZES,
            [1e6 * results[d, S]["limit"] for d in SIZES],
            "k:",
            label="limit: the arithmetic\nas in a large product",
        )
        ax.set(
            xlabel="width d of all layers",
            xticks=SIZES,
            xticklabels=SIZES,
            title=f"{S} run{'s' if S > 1 else ''}",
        )
        ax.minorticks_off()
    axes[0].set(ylabel="µs per run and step")
    fig.legend(
        *axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8
    )
    fig.suptitle("The compiled kernel trains at the speed of matrix multiplication")
    RESULTS.mkdir(exist_ok=True)
    fig.savefig(RESULTS / "training.png", dpi=150)


if __name__ == "__main__":
    one_core()
    check()
    results = measure()
    columns = ["d", "runs S", "limit", *COMPETITORS, "compiled / limit", "with exact loss"]
    cell = lambda t: f"{1e6 * t:.1f}" if t < 1e-4 else f"{1e6 * t:.0f}"
    rows = [
        [
            str(d),
            str(S),
            cell(r["limit"]),
            *(cell(r[name]) for name in COMPETITORS),
            f"{r['dln_nb, compiled'] / r['limit']:.2f}",
            f"{cell(r['with exact loss'])} "
            f"(+{r['with exact loss'] / r['dln_nb, compiled'] - 1:.0%})",
        ]
        for (d, S), r in results.items()
    ]
    speeds = [r["speed"] / 1e9 for r in results.values()]
    write_table(
        "training",
        "Time of one step of SGD",
        columns,
        rows,
        [
            f"µs of one processor core per run and step; float64, L = {DEPTH} layers of width d, "
            f"minibatches of {BATCH} of {N} samples. The best of {ROUNDS} pieces of {PIECE:g} s "
            "CPU time or more, all competitors in turn. "
            f"limit: the operations of a step at the speed of BLAS on matrices of size {LARGE}, "
            f"measured in the same turns ({min(speeds):.1f} to {max(speeds):.1f} GF/s). "
            "The plain loop trains one run; its time is the same in both lines of a width. vmap "
            "and JAX get the order of the data for nothing, dln_nb draws it. Same weights after "
            "20 steps from all but the plain loop, which shuffles by itself: checked to 1e-12."
            f" numba {version('numba')}"
            + (
                f", jax {version('jax')} with one thread."
                if jax
                else "; JAX is not installed here."
            ),
            "![](training.png)",
            *targets(results),
        ],
    )
    figure(results)

"How does the time of a step of the compiled kernel, and its memory, grow with the work?"

import subprocess
import sys

import matplotlib.pyplot as plt
from common import RESULTS, write_table
from training import BATCH, DEPTH, LARGE, interleaved, multiply, one_core, ours

from dln_nb.training.kernel import step_flops

D = 32
AXES = {
    "width d": ("d", (8, 16, 32, 64, 128, 256)),
    "depth L": ("depth", (1, 2, 4, 8, 16)),
    "minibatch b": ("batch", (1, 2, 8, 32, 128, 512)),
    "runs S": ("S", (1, 4, 16, 64, 256)),
}
STEPS = (300, 3000, 30_000)

# VmHWM is the peak of the process itself; ru_maxrss would begin with that of its parent.
MEMORY = """
from pathlib import Path
from training import ours
lines = lambda: Path("/proc/self/status").read_text().splitlines()
peak = lambda: int(next(line for line in lines() if line.startswith("VmHWM")).split()[1])
ours(32, 8)(300)
before = peak()
ours(32, 8)({steps})
print((peak() - before) / 1024)
"""


def grow(argument: str, values) -> list[tuple]:  # (value, seconds per run and step, limit)
    "Along one axis, all values in turn."
    options = {v: {"d": D, "S": 4, "depth": DEPTH, "batch": BATCH, argument: v} for v in values}
    seconds = interleaved(
        {v: ours(**o) for v, o in options.items()} | {"product": multiply()}, rounds=8
    )
    speed = 2 * LARGE**3 / seconds.pop("product")
    return [
        (
            v,
            t / options[v]["S"],
            step_flops((options[v]["d"],) * (options[v]["depth"] + 1), options[v]["batch"]) / speed,
        )
        for v, t in seconds.items()
    ]


def memory(steps: int) -> float:  # MiB
    "Growth of the peak memory by a training of so many steps of 8 runs, after one of 300."
    return float(
        subprocess.run(
            [sys.executable, "-c", MEMORY.format(steps=steps)],
            cwd=RESULTS.parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )


if __name__ == "__main__":
    one_core()
    curves = {name: grow(argument, values) for name, (argument, values) in AXES.items()}
    rows = [
        [name, str(v), f"{1e6 * t:.2f}", f"{1e6 * limit:.2f}", f"{t / limit:.2f}"]
        for name, points in curves.items()
        for v, t, limit in points
    ]
    train = ours(D, 4)
    lengths = interleaved(
        {steps: lambda n, steps=steps: train(steps) for steps in STEPS}, piece=0, rounds=8
    )  # one training each
    rows += [
        ["steps", str(steps), f"{1e6 * t * 100 / steps / 4:.2f}", "", ""]
        for steps, t in lengths.items()
    ]
    used = {steps: memory(steps) for steps in (3000, 30_000, 300_000)}
    write_table(
        "training_growth",
        "Growth of the time of a step and of the memory",
        ["axis", "value", "µs per run and step", "limit", "ratio"],
        rows,
        [
            f"Where the axis does not say otherwise: d = {D}, L = {DEPTH}, b = {BATCH}, S = 4 "
            "runs. CPU time of one core, the best of 8 pieces taken in turn; limit as in "
            "`training.py`. The steps of a training include its start.",
            "Growth of the peak memory (8 runs, the loss recorded at the ends): "
            + ", ".join(f"{mib:.0f} MiB at {steps:,} steps" for steps, mib in used.items())
            + ".",
            "![](training_growth.png)",
        ],
    )
    fig, axes = plt.subplots(1, 4, figsize=(11, 2.8), layout="constrained")
    for ax, (name, points) in zip(axes, curves.items()):
        v, t, limit = zip(*points)
        ax.loglog(v, [1e6 * x for x in t], "o-", ms=4, color="#0072B2", label="compiled kernel")
        ax.loglog(v, [1e6 * x for x in limit], "k:", label="limit")
        ax.set(xlabel=name, ylim=(0.1, 2000))
    axes[0].set(ylabel="µs per run and step")
    axes[0].legend(frameon=False, fontsize=8)
    fig.suptitle(
        "A step costs little more than its arithmetic, the calls of BLAS where matrices are tiny; "
        "other runs cost it nothing"
    )
    fig.savefig(RESULTS / "training_growth.png", dpi=150)

"What a certificate costs: beside automatic differentiation, at width 64, and in memory."
import subprocess
import sys
from functools import partial
from pathlib import Path
from time import process_time

import numpy as np
import torch
from common import seconds, write_table
from scipy.sparse.linalg import LinearOperator, eigsh

from dln_nb.foundations.checks import random_stream
from dln_nb.foundations.network import change_gauge, layer_widths, to_vector
from dln_nb.foundations.task import gaussian_task, random_orthogonal, teacher_matrix
from dln_nb.saddles.certificates import certify
from dln_nb.saddles.eigenvalues import _parts
from dln_nb.saddles.hessian import hessian
from dln_nb.saddles.lanczos import lowest_eigenvalues

TOL = 1e-9
seconds = partial(seconds, clock=process_time) # one thread: what a quiet machine would take


def random_basis(d, rng):
    "Invertible, singular values in [1/2, 2]."
    size = torch.from_numpy(2 ** rng.uniform(-1, 1, d))
    return random_orthogonal(d, rng) * size @ random_orthogonal(d, rng)


def saddle(task, widths, r, zero, rng):
    "The normal form with the r leading modes and Z_l = 0 for l in `zero`, in random bases."
    U = torch.linalg.svd(task.solution @ task.input_root).U
    shapes = [(d - r, e - r) for e, d in zip(widths, widths[1:])]
    Zs = [torch.from_numpy(rng.standard_normal(s)) / s[1]**.5 * (l not in zero)
          for l, s in enumerate(shapes, 1)]
    Ws = [torch.block_diag(torch.eye(r), Z) for Z in Zs]
    Ws[0] = torch.cat([U[:, :r].T @ task.solution, torch.nn.functional.pad(Zs[0], (r, 0))])
    Ws[-1] = torch.cat([U[:, :r], U[:, r:] @ Zs[-1]], 1)
    return change_gauge(Ws, [random_basis(d, rng) for d in widths[1:-1]])


def task_of(widths):
    teacher = teacher_matrix("full-rank", widths[-1], widths[0])
    return gaussian_task(teacher, n=None, input_spectrum=.5, aligned=False)


def flat_loss(widths, task):
    "The loss as a function of one vector, for automatic differentiation, by the end-to-end matrix."
    R, target = task.covariance_factor, task.solution
    shapes = [(b, a) for a, b in zip(widths, widths[1:])]
    ends = np.cumsum([0, *(a * b for a, b in shapes)]).tolist()
    def f(v):
        W = None
        for shape, i, j in zip(shapes, ends, ends[1:]):
            A = v[i:j].reshape(shape)
            W = A if W is None else A @ W
        return .5 * ((W - target) @ R.T).square().sum()
    return f


def count(lam):
    "Smallest eigenvalue and index of a spectrum."
    return lam[0].item(), int((lam < -TOL * max(1, lam.abs().max().item())).sum())


def autograd_eigsh(f, v, index):
    """Smallest eigenvalue and index by eigsh on one Hessian-vector product at a time.

    It is told the index and asks for no more: in the kernel beyond it, it does not converge."""
    x, calls = v.clone().requires_grad_(True), [0]
    # built once; each product goes back through its graph
    gradient = torch.autograd.grad(f(x), x, create_graph=True)[0]
    def product(u):
        calls[0] += 1
        u = torch.from_numpy(u.ravel())
        return torch.autograd.grad(gradient, x, u, retain_graph=True)[0].numpy()
    start = random_stream(0, "start").standard_normal(len(v))
    operator = LinearOperator((len(v),) * 2, product, dtype=float)
    options = dict(which="SA", tol=1e-10, v0=start, return_eigenvectors=False)
    lam = np.sort(eigsh(operator, k=index, **options))
    return lam[0], int((lam < -TOL * max(1, abs(lam[0]))).sum()), calls[0]


def beside_autograd():
    "Per point, in milliseconds."
    rows = []
    eight = (8,) * 5
    for widths, zero in ((eight, (1, 3)), (eight, (1, 2)), ((6, 8, 7, 8, 5), (1, 3))):
        task, rng = task_of(widths), random_stream(0, "points")
        points = [saddle(task, widths, 2, zero, rng) for _ in range(500)]
        batch, f = tuple(map(torch.stack, zip(*points))), flat_loss(widths, task)
        P = len(to_vector(points[0]))
        dense = lambda v: torch.linalg.eigvalsh(torch.func.hessian(f)(v))
        vs = to_vector(batch)
        # clones: forward derivatives of a view would copy all that it is a view of
        few, hundred = [v.clone() for v in vs[:5]], vs[:100].clone()
        many = lambda: torch.linalg.eigvalsh(torch.func.vmap(torch.func.hessian(f))(hundred))
        ours = certify(batch, task)
        index = int(ours.index[0])
        start = process_time()
        least, found, products = autograd_eigsh(f, few[0], index)
        slow = process_time() - start
        assert found == count(dense(few[0]))[1] == index # the same verdict
        assert abs(least - ours.min_eigenvalue[0]) < 1e-9 * ours.norm[0]
        cost = [seconds(lambda: certify(batch, task), repeats=11) / len(points),
                seconds(lambda: certify(points[0], task), repeats=21),
                seconds(lambda: [dense(v) for v in few], repeats=11) / 5,
                seconds(many, repeats=5) / 100, slow]
        size = next(_parts(tuple(W[:1] for W in batch), task)).size
        rows.append([f"{widths}, Z_{zero[0]} = Z_{zero[1]} = 0", f"{P} → {size}", str(index),
                     *(f"{1e3*c:.2f}" for c in cost), str(products),
                     *(f"{c/cost[0]:.0f}×" for c in cost[2:])])
    return rows


def pivot_count(H, x):
    "Eigenvalues of H below x, from the pivots of an LDLᵀ factorisation (Sylvester's law)."
    H.diagonal().sub_(x)
    LD, pivots = torch.linalg.ldl_factor(H)
    H.diagonal().add_(x)
    d, below, single = LD.diagonal(), LD.diagonal(-1), pivots > 0
    first = (~single).nonzero()[:, 0][::2] # two by two pivots
    rows = [torch.stack([d[first], below[first]]), torch.stack([below[first], d[first + 1]])]
    blocks = torch.stack(rows).permute(2, 0, 1)
    return int((d[single] < 0).sum() + (torch.linalg.eigvalsh(blocks) < 0).sum())


def width_64():
    "Certified, and checked against the full matrix."
    rows = []
    narrow, wide = (16, 64, 64, 16), (64, 64, 64, 64)
    for widths, r, zero in ((narrow, 4, (1, 2)), (narrow, 4, (1, 3)), (wide, 4, (1, 2)),
                            (wide, 56, (1, 3)), (wide, 4, (1, 3))):
        task = task_of(widths)
        Ws = saddle(task, widths, r, zero, random_stream(0, "wide"))
        P = len(to_vector(Ws))
        part = next(_parts(tuple(W[None] for W in Ws), task))
        start = process_time()
        c = certify(Ws, task, memory=4e9)
        took = process_time() - start
        start = process_time()
        low = lowest_eigenvalues(Ws, task)
        krylov = process_time() - start
        H, tau = hessian(Ws, task), TOL * c.norm.item()
        start = process_time()
        if P < 10_000:
            lam = torch.linalg.eigvalsh(H)
            check = "eigvalsh"
            checked = int((lam < -tau).sum()), int((lam.abs() <= tau).sum())
            assert abs(lam[0] - c.min_eigenvalue) < 1e-12 * c.norm
        else:
            lower, upper = pivot_count(H, -tau), pivot_count(H, tau)
            check, checked = "LDLᵀ, twice", (lower, upper - lower)
        full = process_time() - start
        del H
        assert checked == (c.index, c.nullity), (checked, c)
        sign = "" if low.complete else "≥ "
        lanczos = f"{krylov:.1f} s, index {sign}{count(low.values)[1]}"
        assert not low.complete or count(low.values)[1] == c.index
        assert (low.values[0] - c.min_eigenvalue).abs() < 1e-8 * c.norm
        rows.append([f"{widths}, r = {r}, Z_{zero[0]} = Z_{zero[1]} = 0",
                     f"{P} → {layer_widths(part.core)[1:-1]} → {part.size}",
                     f"{c.min_eigenvalue:.6f}", f"{c.index} / {c.nullity}", f"{c.gap:.0e}",
                     f"{took:.2f} s", lanczos, f"{full:.1f} s ({check})", f"{full/took:.0f}×"])
        print(rows[-1], flush=True)
    return rows


MEMORY_SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
from certificates import Path, certify, random_stream, resident, saddle, task_of, torch
widths, rng = (8, 8, 8, 8, 8), random_stream(0, "memory")
task = task_of(widths)
kinds = ((1, 3), (1, 2), (2, 4), (1, 4))
some = [saddle(task, widths, 2, zero, rng) for zero in kinds for _ in range(25)]
points = tuple(torch.stack(W).repeat(100, 1, 1) for W in zip(*some))
certify(some[0], task)
Path("/proc/self/clear_refs").write_text("5") # forget the peak so far
before = resident("VmRSS")
from time import process_time
start = process_time()
c = certify(points, task, memory={memory})
print(len(c.index), resident("VmHWM") - before, process_time() - start)
"""


def resident(field):
    "Resident size of this process in bytes, from Linux: VmRSS now, VmHWM at its largest."
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024


def memory():
    "Peak memory of 10 000 certificates, beyond what the process and its points take."
    rows = []
    for memory in (2.**25, 2.**28, 2.**31):
        script = MEMORY_SCRIPT.format(folder=sys.path[0], memory=memory)
        command = [sys.executable, "-c", script]
        found = subprocess.run(command, capture_output=True, text=True, check=True)
        n, peak, took = map(float, found.stdout.split())
        rows.append([f"{n:.0f}", f"{memory/2**20:.0f} MiB", f"{peak/2**20:.0f} MiB",
                     f"{took:.1f} s"])
    return rows


def write_autograd():
    write_table(
        "certificates", "Certificates beside automatic differentiation, per point",
        ["saddle (r = 2)", "coordinates", "index", "`certify`, 500 at once, ms",
         "`certify`, one, ms", "`torch.func.hessian` + `eigvalsh`, ms",
         "the same, vmap over 100, ms",
         "`eigsh` + autograd products, ms", "its products", "ratio: dense", "ratio: vmap",
         "ratio: eigsh"],
        beside_autograd(),
        ["Processor time, one thread. All rows count the negative eigenvalues. `eigsh` "
         "(tolerance 1e-10) multiplies by double backward (`torch.autograd.grad` through the "
         "graph of the gradient, which is built once), one vector at a time; it is told the "
         "index and asks for just so many (asked for a few more, it meets the kernel and in "
         "many cases does not converge within its default limits); it runs once, on one point,"
         " and gives the same index and smallest eigenvalue as the others. Ratios to `certify`"
         " on 500 points at once."])


def write_wide():
    write_table(
        "certificates_wide", "Certificates of three layers of width 64",
        ["saddle",
         "parameters → hidden widths without dead directions → rows of the reduced Hessian",
         "smallest eigenvalue", "index / nullity", "gap", "`certify`",
         "block Lanczos, full network", "check on the full matrix", "full / `certify`"],
        width_64(),
        ["Processor time, one thread. Index and nullity agree with the full matrix in every "
         "row: by all its eigenvalues (whose smallest one agrees to 1e-12 of the largest), or "
         "by the signs of the pivots of H ± τ. Block Lanczos with its default limits (32 "
         "directions, 1024 dimensions): where the Krylov space is not exhausted the smallest "
         "eigenvalue is found and the index is not."])


def write_memory():
    write_table(
        "certificates_memory", "Memory of 10 000 certificates, four layers of width 8",
        ["points", "`memory`", "peak above the start", "time"], memory(),
        ["Processor time, one thread. Four kinds of saddles mixed. All full Hessians at once "
         "would take 5000 MiB."])


if __name__ == "__main__": # all three tables, or those named
    tables = dict(autograd=write_autograd, wide=write_wide, memory=write_memory)
    for name in sys.argv[1:] or tables: tables[name]()

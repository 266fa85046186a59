"The atlas at larger sizes: full Hessians on every stratum, critical points of other origin."
from functools import partial

import numpy as np
import pytest
import torch

from dln_nb.foundations.checks import random_stream
from dln_nb.foundations.network import product
from dln_nb.foundations.task import gaussian_task, gradient, teacher_matrix
from dln_nb.saddles.atlas import atlas, atlas_stratum
from dln_nb.saddles.enumeration import strata
from dln_nb.saddles.members import classify, learned_modes, random_member


def white(M): return gaussian_task(M, n=None)
def general(M): return gaussian_task(M, n=60, input_spectrum=1., aligned=False, exact=True)
def noisy(M): return gaussian_task(M, n=40, input_spectrum=.5, aligned=False, noise=.5)


def inertia(Ws, task, nullity):
    """Negative and zero eigenvalues of the Hessian, the Jacobian of the gradient, of every network
    of a batch; and the gap at the predicted nullity."""
    shapes = [W.shape[1:] for W in Ws]
    sizes = [s.numel() for s in shapes]
    unflatten = lambda theta: tuple(t.reshape(s) for t, s in zip(theta.split(sizes), shapes))
    slope = lambda theta: torch.cat([g.flatten() for g in gradient(unflatten(theta), task)])
    H = torch.func.vmap(torch.func.jacrev(slope))(torch.cat([W.flatten(1) for W in Ws], 1))
    values = torch.linalg.eigvalsh((H + H.mT) / 2)
    tolerance = 1e-8 * values.abs().amax(1, keepdim=True).clamp(min=1)
    size, zero = values.abs().sort(1).values, torch.arange(values.shape[1]) < nullity[:, None]
    gap = size.where(~zero, torch.inf).amin(1) / size.where(zero, 0).amax(1).clamp(min=1e-16)
    return (values < -tolerance).sum(1), (values.abs() <= tolerance).sum(1), gap


low_rank = partial(teacher_matrix, "low-rank")
CASES = {
    "low-rank": ((3, 4, 4, 3), general(low_rank(3, 3, rank=2, seed=3))),
    "rank one, five widths": ((2, 3, 2, 3, 2), general(low_rank(2, 2, rank=1, seed=3))),
    "noisy": ((4, 3, 3, 2), noisy(teacher_matrix("full-rank", 2, 4, seed=1))),
    "noisy low-rank has full rank": ((3, 3, 4, 3), noisy(low_rank(3, 3, rank=1, seed=1))),
    "wide": ((3, 4, 4, 3), white(teacher_matrix("full-rank", 3, 3, seed=1))),
    "five widths": ((3, 3, 3, 3, 3), general(teacher_matrix("full-rank", 3, 3, seed=1))),
    "degenerate, five widths": ((3, 3, 3, 3, 3), white(teacher_matrix("degenerate", 3, 3, seed=1))),
    "six widths": ((2, 2, 2, 2, 2, 2), white(teacher_matrix("full-rank", 2, 2, seed=1))),
    "inputs beyond the modes": ((6, 2, 3, 3), general(low_rank(3, 6, rank=2, seed=1))),
}


@pytest.mark.parametrize("name", CASES)
def test_hessian_on_every_stratum(name):
    widths, task = CASES[name]
    table = atlas(task, widths)
    rows = range(table.sizes["stratum"])
    Ws = [random_member(task, widths, *atlas_stratum(table, row), n=1, seed=row) for row in rows]
    Ws = tuple(map(torch.cat, zip(*Ws)))
    assert max(g.abs().max() for g in gradient(Ws, task)) < 1e-12
    expected = {column: torch.from_numpy(table[column].values) for column in ("index", "nullity")}
    negative, zero, gap = inertia(Ws, task, expected["nullity"])
    assert torch.equal(negative, expected["index"]) and torch.equal(zero, expected["nullity"])
    assert gap.min() > 1e6
    found, place = classify(Ws, task)
    assert [found[k] for k in place.tolist()] == [atlas_stratum(table, row)[0] for row in rows]


def zero_block_points(task, widths, modes, n, rng):
    "Critical points in normal form: two residual blocks vanish, the others have random ranks."
    r, U = len(modes), torch.linalg.svd(task.modes[0], full_matrices=True).U
    U = torch.cat([task.modes[0], U[:, task.modes[0].shape[1]:]], 1)
    S, Q = [k - 1 for k in modes], [k for k in range(widths[-1]) if k + 1 not in modes]
    L, residual = len(widths) - 1, [widths[0], *(d - r for d in widths[1:])]
    points = []
    for _ in range(n):
        zeros = rng.choice(L, 2, replace=False)
        Z = []
        for l in range(L):
            k = 0 if l in zeros else rng.integers(0, min(residual[l:l+2]) + 1)
            A, B = (rng.standard_normal(shape) for shape in ((residual[l+1], k), (k, residual[l])))
            Z.append(torch.from_numpy(A @ B))
        one = torch.eye(r, dtype=torch.float64)
        first = torch.cat([U[:, S].T @ task.solution, Z[0]])
        last = torch.cat([U[:, S], U[:, Q] @ Z[-1]], 1)
        points.append((first, *(torch.block_diag(one, A) for A in Z[1:-1]), last))
    return tuple(map(torch.stack, zip(*points)))


@pytest.mark.parametrize("widths, task, modes", [
    ((3, 3, 3), CASES["wide"][1], (1,)),
    ((3, 4, 3, 3), general(teacher_matrix("full-rank", 3, 3, seed=5)), (1, 3)),
    ((3, 4, 4, 3), CASES["low-rank"][1], (1,)),
    ((3, 3, 4, 3, 3), CASES["degenerate, five widths"][1], (1,)),
    ((3, 3, 4, 3, 3), general(teacher_matrix("full-rank", 3, 3, seed=5)), ()),
    ((4, 3, 3, 2), CASES["noisy"][1], (2,))])
def test_points_of_other_origin(widths, task, modes):
    "Points in normal form are on strata of the list, and have the curvature of their stratum."
    Ws = zero_block_points(task, widths, modes, 60, random_stream(0, "zero blocks"))
    assert max(g.abs().max() for g in gradient(Ws, task)) < 1e-11
    torch.testing.assert_close(product(Ws)[0], product(Ws)[-1])
    assert learned_modes(Ws, task).sum(-1).eq(len(modes)).all()
    found, place = classify(Ws, task)
    assert (place >= 0).all() and set(found) <= set(strata(widths, task.rank, len(modes)))
    predicted = [found[k].inertia(task.modes[1], modes)[:2] for k in place.tolist()]
    index, nullity = torch.from_numpy(np.array(predicted).T.copy())
    negative, zero, gap = inertia(Ws, task, nullity)
    assert torch.equal(negative, index) and torch.equal(zero, nullity)
    assert gap.min() > 1e3
    assert len(found) > 1 or len(widths) == 3, "a fair test meets several strata"


def test_atlas_is_stored_and_read(tmp_path):
    "As netCDF, like every result."
    import xarray as xr
    table = atlas(CASES["low-rank"][1], CASES["low-rank"][0])
    table.to_netcdf(tmp_path/"atlas.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path/"atlas.nc", engine="h5netcdf") as stored:
        assert stored.load().equals(table)
        assert atlas_stratum(stored, 7) == atlas_stratum(table, 7)

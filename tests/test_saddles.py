"Saddles on a larger scale than their notebooks: processes, all mode sets, many tasks."
from itertools import combinations

import pytest
import torch

from dln_nb.foundations.network import product
from dln_nb.foundations.task import gaussian_task, teacher_matrix
from dln_nb.saddles.cyclic_patterns import cyclic_paths
from dln_nb.saddles.normal_form import mode_bases, target_map
from dln_nb.saddles.sampler import _METHODS, sample_saddles


def make_task(kind, widths, seed=0):
    teacher = teacher_matrix(kind, widths[-1], widths[0], seed=seed)
    options = dict(n=60, noise=.3, aligned=False, input_spectrum=1., exact=True)
    return gaussian_task(teacher, seed=seed, **options)


def same(a, b):
    assert all(torch.equal(x, y) for x, y in zip(a.weights, b.weights))
    assert (a.pattern == b.pattern).all() and torch.equal(a.agrees, b.agrees)
    assert torch.equal(a.certificate.index, b.certificate.index)


@pytest.mark.parametrize("method", _METHODS)
def test_processes_and_chunks_do_not_matter(method):
    task = make_task("full-rank", (4, 3, 4, 3))
    options = dict(modes=(2,), n=60, seed=1, method=method, draws=5)
    if method in ("sgld", "mala"): options |= dict(thin=3, burn_in=30)
    whole = sample_saddles(task, (4, 3, 4, 3), **options)
    same(whole, sample_saddles(task, (4, 3, 4, 3), chunk=10, n_jobs=2, **options))
    same(whole, sample_saddles(task, (4, 3, 4, 3), chunk=25, **options))


@pytest.mark.parametrize("kind,widths", [
    ("full-rank", (4, 3, 4)), ("full-rank", (3, 4, 4, 3)), ("low-rank", (4, 4, 3, 5)),
    ("degenerate", (3, 5, 2, 4, 4)), ("full-rank", (3, 2, 3, 3, 3, 2))])
@pytest.mark.parametrize("method", ("sgld", "zero-blocks", "atlas"))
def test_every_mode_set(kind, widths, method):
    "All points converge to U_S U_Sᵀ Ŵ; the Hessian agrees with the ranks where these are clear."
    task, total, agree = make_task(kind, widths, seed=3), 0, 0
    options = dict(n=40, seed=2, method=method, thin=10, burn_in=200)
    learnable, paths = range(min(task.rank, *widths) + 1), cyclic_paths(len(widths) - 1)
    for S in (S for r in learnable for S in combinations(range(1, task.rank + 1), r)):
        found = sample_saddles(task, widths, modes=S, **options)
        U = mode_bases(task, S)[0]
        assert found.converged.all() and found.counts.shape == (40, len(paths))
        expected = (U @ U.T @ target_map(task)).expand(40, -1, -1)
        torch.testing.assert_close(product(found.weights), expected, rtol=0, atol=1e-8)
        total, agree = total + 40, agree + int(found.agrees.sum())
    assert agree == total if method != "sgld" else agree >= .95 * total

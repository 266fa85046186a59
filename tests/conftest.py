"What a notebook cannot test: the repository itself, processes, crashes."
import os

# One thread per process, set before numpy or torch is imported; processes started by a test inherit it.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
# nbdev_export does nothing where nbdev_test has set this.
os.environ.pop("IN_TEST", None)

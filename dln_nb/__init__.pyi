# The face of the package. lazy_loader reads it at run time, editors and type checkers before that.
from .experiments.compare import compare as compare
from .experiments.description import Experiment as Experiment, run as run
from .experiments.folders import experiment_grid as experiment_grid, open_sweep as open_sweep
from .experiments.results import measure as measure, weights as weights
from .experiments.store import load as load, save as save
from .experiments.sweeps import sweep as sweep
from .figures.measures import (
    plot_balance as plot_balance,
    plot_measure as plot_measure,
    plot_modes as plot_modes,
    plot_parameters as plot_parameters,
    plot_spectra as plot_spectra,
)
from .figures.paths import plot_losses as plot_losses
from .figures.patterns import plot_distance as plot_distance, plot_patterns as plot_patterns
from .figures.report import write_report as write_report
from .foundations.data import digits_task as digits_task, semantic_task as semantic_task
from .foundations.network import (
    aligned_init as aligned_init,
    balanced_init as balanced_init,
    gaussian_init as gaussian_init,
)
from .foundations.task import (
    Task as Task,
    gaussian_task as gaussian_task,
)
from .measures.balance import balance_residual as balance_residual
from .measures.distances import (
    function_distance as function_distance,
    gauge_distance as gauge_distance,
)
from .measures.mode_coupling import mode_coefficients as mode_coefficients
from .measures.rank_patterns import rank_pattern as rank_pattern
from .measures.spectra import log_spectra as log_spectra
from .saddles.atlas import atlas as atlas
from .saddles.certificates import certify as certify
from .saddles.sampler import sample_saddles as sample_saddles
from .theory.learning_coefficient import learning_coefficient as learning_coefficient
from .training.checkpoints import Escapes as Escapes, LossLevels as LossLevels
from .training.trainer import Steps as Steps, train as train

__version__: str

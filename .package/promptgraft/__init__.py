"""Search over prompts and hyperparameters for transfer learning, on Optuna and Ray Tune.

Example:
    >>> import promptgraft as pg  # doctest: +SKIP
    >>> winner = pg.fit("reviews.csv", source="movies.csv", backbone="sentence-transformers/all-MiniLM-L6-v2")
    >>> winner.predict(["The battery died after a week."])
    ['negative']
"""

import warnings
from importlib.metadata import version
from typing import TYPE_CHECKING

from promptgraft.spaces.facade import lazy_exports

__version__ = version("promptgraft")
# In a notebook tqdm asks for widgets, which nothing here draws.
warnings.filterwarnings("ignore", message="IProgress not found")

if TYPE_CHECKING:
    from promptgraft.bundles.predictor import Predictor as Predictor
    from promptgraft.search.python_api import Winner as Winner
    from promptgraft.search.python_api import fit as fit
    from promptgraft.search.python_api import run as run
    from promptgraft.search.python_api import winner_of as winner_of
    from promptgraft.search.study.loading import Study as Study
    from promptgraft.search.study.loading import load_study as load_study
else:
    __getattr__, __all__ = lazy_exports(__name__, __file__)

"""Imports what trials need. Workers of a local Ray import this module as they start, before they get a trial."""

import gc

from promptgraft.spaces import uncollected

with uncollected():
    import sklearn.metrics
    import sklearn.model_selection  # noqa: F401

    from promptgraft.objectives.backbones import BACKBONES
    from promptgraft.objectives.measures import CostMeter, PromptMeter  # noqa: F401
    from promptgraft.objectives.trial import Objective  # noqa: F401
    from promptgraft.search.workers.worker import TrialRunner  # noqa: F401

    BACKBONES.load_all()
    gc.freeze()  # All of this stays loaded: collections needn't look through it.

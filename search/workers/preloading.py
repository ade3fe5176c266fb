"""What trials need, imported: workers of a local Ray do so as they start, before there is a trial."""

import gc

from promptgraft.spaces import uncollected

with uncollected():
    import sklearn.metrics
    import sklearn.model_selection  # noqa: F401

    from promptgraft.objectives.backbones import BACKBONES
    from promptgraft.objectives.measures import CostMeter, PromptMeter  # noqa: F401
    from promptgraft.objectives.trial import Objective  # noqa: F401
    from promptgraft.search.workers.worker import TrialRunner  # noqa: F401

    for family in BACKBONES:
        BACKBONES[family]
    gc.freeze()  # It stays, and is never looked through for garbage.

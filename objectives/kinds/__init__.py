"""The kinds of task, a file each, which `TASK_KINDS` loads by name, and metrics that plugins add."""

from typing import TYPE_CHECKING

from promptgraft.spaces.facade import lazy_exports

if TYPE_CHECKING:
    from promptgraft.objectives.kinds.histories.interactions import read_items as read_items
    from promptgraft.objectives.kinds.histories.interactions import read_texts as read_texts
    from promptgraft.objectives.kinds.histories.interactions import unlike_items as unlike_items
    from promptgraft.objectives.kinds.histories.interactions import with_id as with_id
    from promptgraft.objectives.kinds.images.detection_loss import detection_loss as detection_loss
    from promptgraft.objectives.kinds.images.detection_loss import detection_targets as detection_targets
    from promptgraft.objectives.kinds.metrics import directions as directions
    from promptgraft.objectives.kinds.metrics import scores as scores
    from promptgraft.objectives.kinds.packing import WIDTH as WIDTH
    from promptgraft.objectives.kinds.packing import pack as pack
    from promptgraft.objectives.kinds.text_classification import log_loss as log_loss
else:
    __getattr__, __all__ = lazy_exports(__name__, __file__)

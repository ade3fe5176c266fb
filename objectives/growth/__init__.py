"""How new templates and label words are drafted and chosen while a study runs."""

from typing import TYPE_CHECKING

from promptgraft.spaces.facade import lazy_exports

if TYPE_CHECKING:
    from promptgraft.objectives.growth.plan import Growth as Growth
    from promptgraft.objectives.growth.plan import GrowthPlan as GrowthPlan
    from promptgraft.objectives.growth.plan import WriterSpec as WriterSpec
    from promptgraft.objectives.growth.rounds import grow as grow
    from promptgraft.objectives.growth.template_sources import NEEDS_WRITER as NEEDS_WRITER
    from promptgraft.objectives.growth.template_sources import TEMPLATE_SOURCES as TEMPLATE_SOURCES
    from promptgraft.objectives.growth.verbalizer_sources import VERBALIZER_SOURCES as VERBALIZER_SOURCES
else:
    __getattr__, __all__ = lazy_exports(__name__, __file__)

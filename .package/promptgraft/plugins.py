"""What a plugin imports: the registries that it adds to, and the types that it builds on; see `docs/extending.md`."""

from typing import TYPE_CHECKING

from promptgraft.spaces.facade import lazy_exports

if TYPE_CHECKING:
    from promptgraft.objectives.backbones.base import BACKBONES as BACKBONES
    from promptgraft.objectives.backbones.base import Backbone as Backbone
    from promptgraft.objectives.backbones.causal_lm import CausalLM as CausalLM
    from promptgraft.objectives.backbones.encoder import Encoder as Encoder
    from promptgraft.objectives.backbones.families import FAMILIES as FAMILIES
    from promptgraft.objectives.backbones.families import Family as Family
    from promptgraft.objectives.backbones.label_scorers import Batch as Batch
    from promptgraft.objectives.backbones.label_scorers import LabelScorer as LabelScorer
    from promptgraft.objectives.backbones.masked_lm import MaskedLM as MaskedLM
    from promptgraft.objectives.backbones.recurrent import Recurrent as Recurrent
    from promptgraft.objectives.backbones.seq2seq import Seq2Seq as Seq2Seq
    from promptgraft.objectives.data.rows import Row as Row
    from promptgraft.objectives.data.rows import TaskSpec as TaskSpec
    from promptgraft.objectives.data.tasks import TASK_KINDS as TASK_KINDS
    from promptgraft.objectives.data.tasks import Task as Task
    from promptgraft.objectives.data.text_tasks import TextTask as TextTask
    from promptgraft.objectives.growth.template_sources import TEMPLATE_SOURCES as TEMPLATE_SOURCES
    from promptgraft.objectives.growth.template_sources import Draft as Draft
    from promptgraft.objectives.growth.verbalizer_sources import VERBALIZER_SOURCES as VERBALIZER_SOURCES
    from promptgraft.objectives.kinds.metrics import METRICS as METRICS
    from promptgraft.objectives.kinds.metrics import metric as metric
    from promptgraft.objectives.kinds.text_classification import TextClassification as TextClassification
    from promptgraft.objectives.measures.kind_checks import check_task_kind as check_task_kind
    from promptgraft.objectives.spec import BackboneSpec as BackboneSpec
    from promptgraft.objectives.trial.training import TrainingSettings as TrainingSettings
    from promptgraft.spaces.custom_parameters import custom_parameter as custom_parameter
    from promptgraft.spaces.errors import InvalidInputError as InvalidInputError
    from promptgraft.spaces.errors import TrialError as TrialError
    from promptgraft.spaces.templates import Template as Template
    from promptgraft.spaces.verbalizers import Verbalizer as Verbalizer
else:
    __getattr__, __all__ = lazy_exports(__name__, __file__)

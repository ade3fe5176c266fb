"""What an editor must resolve without settings: names from every facade, checked by `make types` with pyright.

Facades import lazily at run time (`spaces/facade.py`), so a type checker sees only their `if TYPE_CHECKING` half.
"""

from promptgraft import __version__ as __version__
from promptgraft.bundles import Manifest as Manifest
from promptgraft.bundles import Predictor as Predictor
from promptgraft.bundles.formats import convert as convert
from promptgraft.bundles.registry import open_registry as open_registry
from promptgraft.bundles.serving import create_app as create_app
from promptgraft.objectives.backbones import BACKBONES as BACKBONES
from promptgraft.objectives.backbones import FAMILIES as FAMILIES
from promptgraft.objectives.backbones import Backbone as Backbone
from promptgraft.objectives.caching import StageStore as StageStore
from promptgraft.objectives.data import TASK_KINDS as TASK_KINDS
from promptgraft.objectives.data import Row as Row
from promptgraft.objectives.data import Task as Task
from promptgraft.objectives.growth import grow as grow
from promptgraft.objectives.kinds import scores as scores
from promptgraft.objectives.layers import LayerStack as LayerStack
from promptgraft.objectives.measures import Sizes as Sizes
from promptgraft.objectives.priors import fit_item_prior as fit_item_prior
from promptgraft.objectives.prompting import PromptedModel as PromptedModel
from promptgraft.objectives.runtime import choose_device as choose_device
from promptgraft.objectives.spec import ObjectiveSpec as ObjectiveSpec
from promptgraft.objectives.trial import Objective as Objective
from promptgraft.objectives.trial import Result as Result
from promptgraft.plugins import TEMPLATE_SOURCES as TEMPLATE_SOURCES
from promptgraft.plugins import Draft as Draft
from promptgraft.plugins import TrainingSettings as TrainingSettings
from promptgraft.plugins import custom_parameter as custom_parameter
from promptgraft.search.cli import app as app
from promptgraft.search.drafting import view_table as view_table
from promptgraft.search.exporting import export_winner as export_winner
from promptgraft.search.judging import reach_verdict as reach_verdict
from promptgraft.search.reporting import collect_facts as collect_facts
from promptgraft.search.running import RunOptions as RunOptions
from promptgraft.search.running import run_study as run_study
from promptgraft.search.sampling import Proposals as Proposals
from promptgraft.search.side_jobs import SideJobs as SideJobs
from promptgraft.search.storage import RunFolder as RunFolder
from promptgraft.search.study import Study as Study
from promptgraft.search.study import load_study as load_study
from promptgraft.search.tracking import Tracking as Tracking
from promptgraft.search.trials import TrialJob as TrialJob
from promptgraft.search.trials import forecast as forecast
from promptgraft.search.workers import TrialRunner as TrialRunner
from promptgraft.spaces import Candidate as Candidate
from promptgraft.spaces import SearchSpace as SearchSpace
from promptgraft.spaces import Template as Template


def ids_of_templates(space: SearchSpace) -> list[str]:
    """A name that was resolved has its type, so that an editor completes `template.id`."""
    return [template.id for template in space.templates]


def likeliest_labels(predictor: Predictor, manifest: Manifest, rows: list[Row]) -> list[str]:
    """The same across a lazy facade: shape of the logits (rows, labels)."""
    return [manifest.labels[index] for index in predictor.logits([row.fields for row in rows]).argmax(axis=1)]

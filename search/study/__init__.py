"""The study file: its schema, its checks, and the study that comes of it."""

from typing import TYPE_CHECKING

from promptgraft.spaces.facade import lazy_exports

if TYPE_CHECKING:
    from promptgraft.search.study.backbone_checks import Finding as Finding
    from promptgraft.search.study.backbone_checks import RehearsalJob as RehearsalJob
    from promptgraft.search.study.backbone_checks import Rehearse as Rehearse
    from promptgraft.search.study.backbone_checks import rehearse as rehearse
    from promptgraft.search.study.constraints import Constraints as Constraints
    from promptgraft.search.study.default_space import space_text as space_text
    from promptgraft.search.study.engines import build_pruner as build_pruner
    from promptgraft.search.study.engines import build_sampler as build_sampler
    from promptgraft.search.study.fingerprints import flattened as flattened
    from promptgraft.search.study.fingerprints import row_hashes as row_hashes
    from promptgraft.search.study.fingerprints import study_identity as study_identity
    from promptgraft.search.study.fingerprints import with_recorded_rows as with_recorded_rows
    from promptgraft.search.study.loading import Study as Study
    from promptgraft.search.study.loading import load_study as load_study
    from promptgraft.search.study.schema.json_schema import manifest_schema as manifest_schema
    from promptgraft.search.study.schema.json_schema import study_reference as study_reference
    from promptgraft.search.study.schema.json_schema import study_schema as study_schema
    from promptgraft.search.study.schema.sections import GrowSection as GrowSection
    from promptgraft.search.study.schema.study_file import BudgetSection as BudgetSection
    from promptgraft.search.study.schema.study_file import EffortName as EffortName
    from promptgraft.search.study.schema.study_file import EngineSection as EngineSection
    from promptgraft.search.study.schema.study_file import JudgingSection as JudgingSection
    from promptgraft.search.study.schema.study_file import ResourcesSection as ResourcesSection
    from promptgraft.search.study.schema.study_file import StudyFile as StudyFile
    from promptgraft.search.study.schema.study_file import check_study_name as check_study_name
    from promptgraft.search.study.schema.units import next_moment as next_moment
    from promptgraft.search.study.schema.units import parse_seconds as parse_seconds
    from promptgraft.search.study.space_loading import model_path as model_path
    from promptgraft.search.study.yaml_lines import LinedYaml as LinedYaml
else:
    __getattr__, __all__ = lazy_exports(__name__, __file__)

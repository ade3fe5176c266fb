"""What production gets of a winner: manifest, predictor, verification and comparison."""

from typing import TYPE_CHECKING

from promptgraft.spaces.facade import lazy_exports

if TYPE_CHECKING:
    from promptgraft.bundles.audit import current_user as current_user
    from promptgraft.bundles.audit import timestamp as timestamp
    from promptgraft.bundles.comparison import BundleComparison as BundleComparison
    from promptgraft.bundles.comparison import Disagreement as Disagreement
    from promptgraft.bundles.comparison import Outcome as Outcome
    from promptgraft.bundles.comparison import compare_bundles as compare_bundles
    from promptgraft.bundles.comparison import count_known as count_known
    from promptgraft.bundles.comparison import labelled_rows as labelled_rows
    from promptgraft.bundles.doors import bound_socket as bound_socket
    from promptgraft.bundles.doors import is_loopback as is_loopback
    from promptgraft.bundles.doors import port_error as port_error
    from promptgraft.bundles.doors import url_of as url_of
    from promptgraft.bundles.doors import why_refused as why_refused
    from promptgraft.bundles.folder import check_intact as check_intact
    from promptgraft.bundles.folder import copy_bundle as copy_bundle
    from promptgraft.bundles.folder import read_examples as read_examples
    from promptgraft.bundles.folder import read_manifest as read_manifest
    from promptgraft.bundles.manifest import LOCK_FILE as LOCK_FILE
    from promptgraft.bundles.manifest import MANIFEST_FILE as MANIFEST_FILE
    from promptgraft.bundles.manifest import BackboneReference as BackboneReference
    from promptgraft.bundles.manifest import CoveragePoint as CoveragePoint
    from promptgraft.bundles.manifest import Examples as Examples
    from promptgraft.bundles.manifest import Manifest as Manifest
    from promptgraft.bundles.manifest import MemberPart as MemberPart
    from promptgraft.bundles.manifest import TemplatePart as TemplatePart
    from promptgraft.bundles.manifest import VerbalizerPart as VerbalizerPart
    from promptgraft.bundles.manifest import check_abstaining as check_abstaining
    from promptgraft.bundles.manifest import demonstration_rows as demonstration_rows
    from promptgraft.bundles.predictor import Input as Input
    from promptgraft.bundles.predictor import Predictor as Predictor
    from promptgraft.bundles.publishing import plan_upload as plan_upload
    from promptgraft.bundles.publishing import push as push
    from promptgraft.bundles.verification import TOLERANCE as TOLERANCE
    from promptgraft.bundles.verification import Verification as Verification
    from promptgraft.bundles.verification import verify as verify
    from promptgraft.bundles.writing import Staging as Staging
    from promptgraft.bundles.writing import staged_bundle as staged_bundle
else:
    __getattr__, __all__ = lazy_exports(__name__, __file__)

"""Rows and labels: tables read, cleaned and split, and the contract of their kinds of task."""

from typing import TYPE_CHECKING

from promptgraft.spaces.facade import lazy_exports

if TYPE_CHECKING:
    from promptgraft.objectives.data.folds import WHOLE as WHOLE
    from promptgraft.objectives.data.folds import Split as Split
    from promptgraft.objectives.data.folds import absent_labels as absent_labels
    from promptgraft.objectives.data.folds import check_same_kind as check_same_kind
    from promptgraft.objectives.data.folds import load_tasks as load_tasks
    from promptgraft.objectives.data.folds import wanted_folds as wanted_folds
    from promptgraft.objectives.data.images.files import UnreadableImageError as UnreadableImageError
    from promptgraft.objectives.data.images.files import as_data as as_data
    from promptgraft.objectives.data.images.files import image_folder_rows as image_folder_rows
    from promptgraft.objectives.data.images.files import image_hash as image_hash
    from promptgraft.objectives.data.images.files import image_size as image_size
    from promptgraft.objectives.data.images.files import images_in as images_in
    from promptgraft.objectives.data.images.files import is_data as is_data
    from promptgraft.objectives.data.images.files import is_folder_of_images as is_folder_of_images
    from promptgraft.objectives.data.images.files import load_image as load_image
    from promptgraft.objectives.data.images.files import located as located
    from promptgraft.objectives.data.images.files import open_image as open_image
    from promptgraft.objectives.data.images.files import shown_image as shown_image
    from promptgraft.objectives.data.images.masks import IGNORED_PIXEL as IGNORED_PIXEL
    from promptgraft.objectives.data.images.masks import classes_in as classes_in
    from promptgraft.objectives.data.images.masks import mask_as_data as mask_as_data
    from promptgraft.objectives.data.images.masks import mask_in as mask_in
    from promptgraft.objectives.data.images.masks import read_mask as read_mask
    from promptgraft.objectives.data.images.masks import resized_mask as resized_mask
    from promptgraft.objectives.data.images.pictures import contact_sheet as contact_sheet
    from promptgraft.objectives.data.images.pictures import masked_image as masked_image
    from promptgraft.objectives.data.images.pictures import thumbnail as thumbnail
    from promptgraft.objectives.data.images.similar import find_similar_images as find_similar_images
    from promptgraft.objectives.data.images.similar import image_clusters as image_clusters
    from promptgraft.objectives.data.label_leaks import find_label_leaks as find_label_leaks
    from promptgraft.objectives.data.labels import alike_labels as alike_labels
    from promptgraft.objectives.data.labels import all_labels as all_labels
    from promptgraft.objectives.data.labels import label_number as label_number
    from promptgraft.objectives.data.labels import match_labels as match_labels
    from promptgraft.objectives.data.labels import named_by as named_by
    from promptgraft.objectives.data.labels import read_labels as read_labels
    from promptgraft.objectives.data.near_duplicates import clusters as clusters
    from promptgraft.objectives.data.near_duplicates import drop_known as drop_known
    from promptgraft.objectives.data.near_duplicates import find_near_duplicates as find_near_duplicates
    from promptgraft.objectives.data.priors import PRIOR as PRIOR
    from promptgraft.objectives.data.priors import PRIOR_BASELINES as PRIOR_BASELINES
    from promptgraft.objectives.data.priors import SEPARATOR as SEPARATOR
    from promptgraft.objectives.data.priors import HasPriors as HasPriors
    from promptgraft.objectives.data.priors import PriorNames as PriorNames
    from promptgraft.objectives.data.priors import PriorRows as PriorRows
    from promptgraft.objectives.data.priors import PriorTensors as PriorTensors
    from promptgraft.objectives.data.priors import check_tensors as check_tensors
    from promptgraft.objectives.data.priors import seen as seen
    from promptgraft.objectives.data.rows import IGNORED as IGNORED
    from promptgraft.objectives.data.rows import Answer as Answer
    from promptgraft.objectives.data.rows import AnswerForm as AnswerForm
    from promptgraft.objectives.data.rows import CleaningReport as CleaningReport
    from promptgraft.objectives.data.rows import Comparison as Comparison
    from promptgraft.objectives.data.rows import Direction as Direction
    from promptgraft.objectives.data.rows import Expected as Expected
    from promptgraft.objectives.data.rows import HistorySpec as HistorySpec
    from promptgraft.objectives.data.rows import LabelScores as LabelScores
    from promptgraft.objectives.data.rows import LossName as LossName
    from promptgraft.objectives.data.rows import Outputs as Outputs
    from promptgraft.objectives.data.rows import Prediction as Prediction
    from promptgraft.objectives.data.rows import Row as Row
    from promptgraft.objectives.data.rows import Span as Span
    from promptgraft.objectives.data.rows import TaskSpec as TaskSpec
    from promptgraft.objectives.data.rows import Texts as Texts
    from promptgraft.objectives.data.rows import WordSplitter as WordSplitter
    from promptgraft.objectives.data.rows import fields_key as fields_key
    from promptgraft.objectives.data.rows import joined as joined
    from promptgraft.objectives.data.rows import normalise as normalise
    from promptgraft.objectives.data.rows import row_key as row_key
    from promptgraft.objectives.data.rows import rows_hash as rows_hash
    from promptgraft.objectives.data.splits import by_rarest as by_rarest
    from promptgraft.objectives.data.splits import by_turns as by_turns
    from promptgraft.objectives.data.splits import merged as merged
    from promptgraft.objectives.data.splits import with_fewer as with_fewer
    from promptgraft.objectives.data.tables import has_text as has_text
    from promptgraft.objectives.data.tables import read_rows as read_rows
    from promptgraft.objectives.data.tables import read_table as read_table
    from promptgraft.objectives.data.tasks import TASK_KINDS as TASK_KINDS
    from promptgraft.objectives.data.tasks import Task as Task
    from promptgraft.objectives.data.text_tasks import TextTask as TextTask
    from promptgraft.objectives.data.times import read_times as read_times
else:
    __getattr__, __all__ = lazy_exports(__name__, __file__)

"""Image classification: a row names the file of an image and has one label; answers are those of texts."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from promptgraft.objectives.data import (
    TASK_KINDS,
    Outputs,
    Row,
    image_folder_rows,
    is_folder_of_images,
    read_table,
)
from promptgraft.objectives.kinds.images.image_rows import ImageTask, raw_pixels
from promptgraft.objectives.kinds.text_classification import TextClassification
from promptgraft.spaces import InvalidInputError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd


@TASK_KINDS.register("image_classification")
class ImageClassification(ImageTask, TextClassification):
    """One label an image, two or more labels."""

    baseline_names: ClassVar[dict[str, str]] = {"tfidf": "logistic regression on raw pixels"}
    priors: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def read(cls, path: str, columns: Sequence[str], lists: Sequence[str] = ()) -> "pd.DataFrame":
        """Read a table, or a folder with a folder of images for each label; see `TextTask`."""
        if not is_folder_of_images(Path(path)):
            return read_table(path, columns, lists)
        import pandas as pd

        rows = pd.DataFrame(image_folder_rows(Path(path)), dtype=object)
        for name in columns:
            if name not in rows.columns:
                raise InvalidInputError(
                    f"{path}: is a folder of images, which has the columns image and label, and no column {name!r}; "
                    f"{did_you_mean(name, ['image', 'label'])}"
                )
        return rows[list(columns)]

    def fit_by_words(self, train: Sequence[Row], rows: Sequence[Row]) -> Outputs:
        """Fit logistic regression on the raw pixels of small images, which have no words; see `Task`."""
        return self.fit_linear(raw_pixels(train), train, raw_pixels(rows), c=1.0)

    @property
    def purpose(self) -> str:
        """Say that it classifies images; see `Task`."""
        return "Classifies images as"

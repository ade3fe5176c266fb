"""The schema of a study file's tasks: a table of rows, its columns, and how many rows are for what."""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from promptgraft.search.study.schema.sections import HistoriesSection, Section
from promptgraft.spaces import LABEL_FIELD


def _fields(value: Any) -> Any:
    return {"text": value} if isinstance(value, str) else value


def _usable_fields(value: dict[str, str]) -> dict[str, str]:
    if LABEL_FIELD in value:
        raise ValueError(f"no field can be named {LABEL_FIELD}, which is the label's place in templates; rename it")
    if not value:
        raise ValueError("must name at least one column of text")
    return value


class TaskSection(Section):
    """A table of labelled rows."""

    train: str = Field(
        description="Table, relative to the study file: CSV, TSV, JSON, JSONL, Parquet, Arrow or Excel, also "
        "compressed (.gz, .zst); a URL of one (https://, s3://, hf://datasets/...); a folder that `datasets` has "
        "saved; or a folder with a folder of .txt files, or of images, for each class."
    )
    text: Annotated[
        dict[str, str],
        BeforeValidator(_fields, json_schema_input_type=dict[str, str] | str),
        AfterValidator(_usable_fields),
    ] = Field(
        description="Column of the text, or a mapping of template fields to columns; of images, {image: COLUMN}, the "
        "column of the path of each image, relative to the table."
    )
    label: str = Field(description="Column of the answer: the label, several labels, a number, or a text.")
    kind: str = Field("text_classification", description="Kind of task, such as multi_label or translation.")
    labels: tuple[str, ...] | None = Field(
        None, description="Labels to keep, in their order; all labels of the table, sorted, if left out."
    )
    train_rows: int | None = Field(None, ge=2, description="Number of training rows; all remaining rows if left out.")
    histories: HistoriesSection | None = Field(None, description="Users and items, where rows are histories.")

    @field_validator("label")
    @classmethod
    def _is_no_text(cls, value: str, info: ValidationInfo) -> str:
        if value in info.data.get("text", {}).values():
            raise ValueError("must be another column than the text, which would give the label away")
        return value


class SourceTrainingSection(Section):
    """Training of the source stage; `space.source_steps` sets its number of updates."""

    batch_size: int = Field(16, ge=1, description="Rows per update.")
    learning_rate: float = Field(5e-5, gt=0, description="Learning rate of the backbone's weights.")
    head_learning_rate: float = Field(1e-2, gt=0, description="Learning rate of the head and of a soft prompt.")
    frozen_layers: int = Field(
        0, ge=0, description="Number of lowest layers to freeze; from 1 on, the embeddings are frozen, too."
    )


class SourceSection(TaskSection):
    """The task with many labels."""

    training: SourceTrainingSection = Field(
        SourceTrainingSection(), description="Training of the source stage; with `space: auto`, settings that fit it."
    )


class TargetSection(TaskSection):
    """The task with few labels, and its splits."""

    test: str | None = Field(
        None, description="Table of the test set; if left out, the test set is sampled from `train`."
    )
    validation: str | None = Field(None, description="Table of rows to choose by, in place of cross-validation.")
    unlabelled: str | None = Field(
        None, description="Table of rows without labels, for `space.self_training`; the text has the same columns."
    )
    validation_rows: int | None = Field(
        None, ge=2, description="Number of further rows to choose by, in place of cross-validation."
    )
    test_rows: int | None = Field(None, ge=2, description="Number of test rows; sealed until the winner is exported.")
    shots: int | None = Field(None, ge=2, description="Number of labelled rows per label.")
    folds: int | None = Field(
        None,
        ge=2,
        description="Number of folds of cross-validation; by the number of rows if left out: 4, 3 from 1,000 rows on, "
        "and from 5,000 on a fifth of the rows is held out instead.",
    )
    source_language: str | None = Field(None, description="Language of the text of a translation, or its code.")
    target_language: str | None = Field(None, description="Language of its answer, or its code.")
    group: str | None = Field(None, description="Column of a group, such as the author; splits never divide a group.")
    time: str | None = Field(
        None, description="Column of numbers or dates; validation and test rows are newer than training rows."
    )

    @property
    def languages(self) -> tuple[str, str] | None:
        """From which language into which one texts are translated; None if they aren't."""
        source, target = self.source_language, self.target_language
        return (source, target) if source is not None and target is not None else None

    @field_validator("shots")
    @classmethod
    def _stands_alone(cls, value: int | None, info: ValidationInfo) -> int | None:
        others = [name for name in ("train_rows", "validation_rows") if info.data.get(name) is not None]
        if value is not None and others:
            raise ValueError(f"sets the number of rows per label; leave out {' and '.join(others)}")
        return value

    @field_validator("validation_rows", "folds")
    @classmethod
    def _chooses_one_way(cls, value: int | None, info: ValidationInfo) -> int | None:
        others = [name for name in ("validation", "validation_rows") if info.data.get(name) is not None]
        if value is not None and others:
            raise ValueError(f"can't be given beside {' and '.join(others)}: there is one way to choose")
        return value

    @field_validator("group", "time")
    @classmethod
    def _splits_rows(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("shots") is not None:
            raise ValueError(f"{info.field_name} is not supported together with shots; use train_rows")
        return value

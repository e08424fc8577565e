"""TensorFlow Datasets without TensorFlow: prepared ArrayRecord files, read by random access."""

from collections.abc import Sequence
from typing import Any

import tensorflow_datasets as tfds

from research.errors import UserError


def open_split(name: str, split: str, data_dir: str, raw: tuple[str, ...]) -> Sequence[Any]:
    """The records of a split.

    Args:
      name: of the data set in TFDS, such as "cifar10" or "imagenet2012:5.1.0".
      split: in TFDS's notation, such as "train", "test" or "train[:90%]".
      data_dir: where data sets lie; "" is `TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
      raw: features to leave encoded, as bytes.

    Raises:
      UserError: the data set is not there, or has no such split; says how to get it.
    """
    decoders = {feature: tfds.decode.SkipDecoding() for feature in raw}
    try:
        return builder(name, data_dir).as_data_source(split=split, decoders=decoders)
    except ValueError as error:
        raise UserError(f"'{name}' has no split '{split}': {_first_line(error)}") from None


def builder(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
    """The builder of a prepared data set.

    Raises:
      UserError: it is not there; says how to get it.
    """
    try:
        found = tfds.builder(name, data_dir=data_dir or None, try_gcs=False)
    except tfds.core.DatasetNotFoundError:
        where = _place(data_dir)
        raise UserError(f"TFDS knows no '{name}', and there is none in {where}") from None
    except (AssertionError, ValueError) as error:
        raise UserError(f"'{name}' cannot be opened: {_first_line(error)}") from None
    if not found.data_path.exists() or not found.info.splits:
        where = f"TFDS_DATA_DIR={data_dir} " if data_dir else ""
        raise UserError(
            f"the data set '{name}' is not in {_place(data_dir)}; `{where}make dataset "
            f"NAME={name.split(':')[0]}` prepares it there, or set TFDS_DATA_DIR to where it lies"
        )
    if found.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        raise UserError(
            f"'{name}' in {found.data_path} is prepared as {found.info.file_format.value}, "
            f"not array_record; remove that folder, then `make dataset NAME={name}`"
        )
    return found


def _place(data_dir: str) -> str:
    return data_dir or str(tfds.core.constants.DATA_DIR)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]

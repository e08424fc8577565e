"""TensorFlow Datasets without TensorFlow: prepared ArrayRecord files, read by random access."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from research.common.errors import UserError


class StoredAudio(tfds.features.Tensor):
    """An audio feature as its files hold it: samples, or the bytes of a sound file.

    It stands in for `tfds.features.Audio`, which cannot be made without TensorFlow, in data sets
    that are prepared. Samples are [samples] or [samples, channels], of the feature's dtype; a data
    set prepared with `lazy_decode` gives bytes.

    Args:
      description: TFDS's `AudioFeature` message, from the data set's `features.json`.
    """

    # TFDS makes this class where a `features.json` has one of these names.
    ALIASES = ("tensorflow_datasets.core.features.audio_feature.Audio",)

    sample_rate: int  # in Hz; 0 where the data set does not tell it
    encoded: bool  # whether bytes are given

    def __init__(self, description: Any):
        sizes = (None if size < 0 else size for size in description.shape.dimensions)
        self.sample_rate, self.encoded = description.sample_rate, description.lazy_decode
        if self.encoded:
            super().__init__(shape=(), dtype=np.object_)
        else:
            dtype, encoding = np.dtype(description.dtype), description.encoding or "none"
            super().__init__(shape=tuple(sizes), dtype=dtype, encoding=encoding)

    @classmethod
    def from_json_content(cls, value: Any) -> "StoredAudio":
        return cls(value)


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
    """The builder of a prepared data set, of its newest version unless `name` has another.

    Raises:
      UserError: it is not there; says how to get it.
    """
    # Asked for a version, TFDS opens what is prepared without the code that prepared it, and so
    # without TensorFlow, which the code of many a data set needs.
    version = {} if ":" in name else {"version": "*.*.*"}
    folder = epath.Path(data_dir).expanduser() if data_dir else None
    try:
        found = tfds.builder(name, data_dir=folder, try_gcs=False, **version)
    except (tfds.core.DatasetNotFoundError, ImportError):
        # Nothing is prepared. Whether TFDS has it cannot be told: code that needs TensorFlow, such
        # as that of wmt14_translate, is unknown to it here, or cannot be imported.
        raise _absent(name, data_dir) from None
    except (AssertionError, ValueError) as error:
        raise UserError(f"'{name}' cannot be opened: {_first_line(error)}") from None
    if not found.data_path.exists() or not found.info.splits:
        raise _absent(name, data_dir)
    if found.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        raise UserError(
            f"'{name}' in {found.data_path} is prepared as {found.info.file_format.value}, "
            f"not array_record; remove that folder, then `make dataset NAME={name}`"
        )
    return found


def _absent(name: str, data_dir: str) -> UserError:
    where = f"TFDS_DATA_DIR={data_dir} " if data_dir else ""
    return UserError(
        f"the data set '{name}' is not in {_place(data_dir)}; `{where}make dataset "
        f"NAME={name.split(':')[0]}` prepares it there if TFDS has it, "
        "or set TFDS_DATA_DIR to where it lies"
    )


def _place(data_dir: str) -> str:
    return data_dir or str(tfds.core.constants.DATA_DIR)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]

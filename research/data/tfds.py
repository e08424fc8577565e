"""TensorFlow Datasets without TensorFlow: prepared ArrayRecord files, read by random access."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from research.common.config import suggest
from research.common.errors import ConfigError, UserError
from research.data.splits import fall_back_to_validation, missing_split, warn_once


@dataclass(frozen=True)
class TFDSSource:
    """Base of the sources that read a TFDS data set, prepared as ArrayRecord."""

    name: str
    """Name in the TFDS catalogue, such as "cifar10" or "imagenet2012:5.1.0"."""

    data_dir: str = ""
    """Directory of the prepared data sets; empty: `TFDS_DATA_DIR`, else `~/tensorflow_datasets`."""

    train: str = "train"
    """The training split, in the notation of TFDS, such as "train[:90%]"."""

    validation: str = "validation"
    """The validation split."""

    test: str = "test"
    """The test split; empty: the validation split is used instead."""

    @property
    def has_test(self) -> bool:
        """Whether there is a test split; if not, the validation split is used instead."""
        return bool(self.test)

    def builder(self) -> tfds.core.DatasetBuilder:
        """Returns the builder of the prepared data set.

        Raises:
          UserError: the data set is not prepared; the message names the command that prepares it.
        """
        return builder(self.name, self.data_dir)

    def features(self) -> Mapping[str, Any]:
        """Returns the features of a record by name.

        Raises:
          UserError: the data set is not prepared.
        """
        return self.builder().info.features

    def check_features(self, *keys: str, known: Collection[str] | None = None) -> None:
        """Checks that the data set has the features that config keys name.

        Args:
          keys: the config keys, fields of this class.
          known: names of the features that are allowed; None for all features of a record.

        Raises:
          ConfigError: a feature does not exist; the message names the most similar one.
        """
        known = self.features() if known is None else known
        for key in keys:
            feature = getattr(self, key)
            if feature not in known:
                problem = f"unknown feature '{feature}' of '{self.name}'; {suggest(feature, known)}"
                raise ConfigError(key, problem)

    def records(self, split: str, raw: tuple[str, ...] = ()) -> Sequence[Any]:
        """Opens the records of a split, and warns of training records that other splits contain.

        Args:
          split: "train", "validation" or "test".
          raw: features to leave encoded, as bytes.

        Raises:
          UserError: the data set is not prepared, or does not have the split.
        """
        split = fall_back_to_validation(split, self.has_test, f"'{self.name}'")
        spec, data_set = getattr(self, split), self.builder()
        decoders = {feature: tfds.decode.SkipDecoding() for feature in raw}
        try:
            records = data_set.as_data_source(split=spec, decoders=decoders)
        except ValueError:
            hint = suggest(spec, data_set.info.splits)
            raise missing_split(split, f"'{self.name}' has no '{spec}'; {hint}") from None
        if split == "train":
            self._check_overlap(data_set)
        return records

    def _check_overlap(self, data_set: tfds.core.DatasetBuilder) -> None:
        for split in ("validation", "test"):
            spec = getattr(self, split)
            if shared := _count_shared(data_set, self.train, spec):
                warn_once(
                    f"{shared} {split} examples of '{self.name}' are in the training split too: "
                    f"'{spec}' overlaps '{self.train}'; give disjoint ranges"
                )


class StoredAudio(tfds.features.Tensor):
    """An audio feature in its stored form: samples, or the bytes of a sound file.

    It replaces `tfds.features.Audio`, which needs TensorFlow, in prepared data sets. Samples are
    [samples] or [samples, channels], of the feature's dtype; a data set that was prepared with
    `lazy_decode` contains bytes.

    Args:
      description: TFDS's `AudioFeature` message, from the data set's `features.json`.
    """

    # TFDS builds this class for a feature whose type in `features.json` has one of these names.
    ALIASES = ("tensorflow_datasets.core.features.audio_feature.Audio",)

    sample_rate: int  # in Hz; 0 if the data set does not declare it
    encoded: bool  # whether records contain bytes

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
        """Builds the feature from its message; TFDS calls it."""
        return cls(value)


def builder(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
    """Returns the builder of a prepared data set, of its newest version unless `name` has one.

    Args:
      name: name in TFDS, such as "cifar10" or "imagenet2012:5.1.0".
      data_dir: directory of the data sets; "" for `TFDS_DATA_DIR`, else `~/tensorflow_datasets`.

    Raises:
      UserError: the data set is not prepared; the message names the command that prepares it.
    """
    # With a version, TFDS opens prepared data without the code that prepared them, which needs
    # TensorFlow for many data sets.
    version = {} if ":" in name else {"version": "*.*.*"}
    folder = epath.Path(data_dir).expanduser() if data_dir else None
    try:
        found = tfds.builder(name, data_dir=folder, try_gcs=False, **version)
    except (tfds.core.DatasetNotFoundError, ImportError):
        # Not prepared. Whether TFDS has the data set is unknown here: code that needs TensorFlow,
        # such as that of wmt14_translate, is not registered or cannot be imported.
        raise _not_prepared(name, data_dir) from None
    except (AssertionError, ValueError) as error:
        raise UserError(f"cannot open '{name}': {_first_line(error)}") from None
    if not found.data_path.exists() or not found.info.splits:
        raise _not_prepared(name, data_dir)
    if found.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        raise UserError(
            f"cannot read '{name}' in {found.data_path}: it is prepared as "
            f"{found.info.file_format.value}, not array_record; remove that directory, then "
            f"`make dataset NAME={name}`"
        )
    return found


def _not_prepared(name: str, data_dir: str) -> UserError:
    variable = f"TFDS_DATA_DIR={data_dir} " if data_dir else ""
    directory = data_dir or str(tfds.core.constants.DATA_DIR)
    return UserError(
        f"missing data set '{name}' in {directory}; `{variable}make dataset "
        f"NAME={name.split(':')[0]}` prepares it there if TFDS has it, "
        "or set TFDS_DATA_DIR to the directory that contains it"
    )


def _count_shared(data_set: tfds.core.DatasetBuilder, first: str, second: str) -> int:
    """Returns the number of records that two splits share; 0 where one does not exist."""
    try:
        parts = [data_set.info.splits[spec].file_instructions for spec in (first, second)]
    except ValueError:
        return 0
    return sum(
        max(0, min(a.skip + a.take, b.skip + b.take) - max(a.skip, b.skip))
        for a in parts[0]
        for b in parts[1]
        if a.filename == b.filename
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]

"""Prepares a TFDS data set as ArrayRecord in `TFDS_DATA_DIR`: `make dataset NAME=cifar10`.

It runs in its own environment, without this package: most TFDS builders need TensorFlow to prepare
their data, whereas readers do not.
"""

import sys

import tensorflow_datasets as tfds

if __name__ == "__main__":
    try:
        builder = tfds.builder(sys.argv[1], file_format="array_record")
    except (tfds.core.DatasetNotFoundError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0]
        print(f"error: cannot open the TFDS data set '{sys.argv[1]}': {reason}", file=sys.stderr)
        sys.exit(2)
    builder.download_and_prepare()
    print(f"{builder.info.full_name} is prepared in {builder.data_path}")

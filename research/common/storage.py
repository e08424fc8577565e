"""Paths on disk or in a bucket of Google Cloud Storage (`gs://BUCKET/FOLDER`)."""

import importlib.util
import logging
import re
from pathlib import Path
from typing import TypeAlias

import fsspec.config
from etils import epath

from research.common.errors import UserError

# The two have most methods in common; where they differ, as in `absolute`, is for this module.
AnyPath: TypeAlias = Path | epath.Path

_READ = ("storage.buckets.get", "storage.objects.get", "storage.objects.list")
_WRITE = (*_READ, "storage.objects.create", "storage.objects.delete")


def as_path(text: str, write: bool = False) -> AnyPath:
    """The place that a person names.

    Args:
      text: a path, or `gs://BUCKET/FOLDER`.
      write: whether it is to be written to, too.

    Raises:
      UserError: it is in a bucket that cannot be used; says why, before anything is lost by it.
    """
    if "://" not in text and not text.startswith("gs:"):
        return Path(text)
    bucket = re.fullmatch(r"gs://([a-z0-9][-_.a-z0-9]+[a-z0-9])(/.*)?", text)
    if bucket is None:
        raise UserError(f"'{text}' is no place; write a path, or gs://BUCKET/FOLDER")
    if importlib.util.find_spec("gcsfs") is None:
        raise UserError(f'{text} needs gcsfs, which is not here; pip install -e ".[tpu]"')
    # What other processes have written since must be seen too.
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    # They print, some with a traceback, what the exceptions that they raise say too.
    for talker in ("gcsfs", "google.auth"):
        logging.getLogger(talker).setLevel(logging.CRITICAL)
    _check_access(bucket[1], _WRITE if write else _READ)
    return epath.Path(text)


def is_in_bucket(place: AnyPath) -> bool:
    """Whether a place is in a bucket."""
    return str(place).startswith("gs://")


def absolute(place: AnyPath) -> AnyPath:
    """The place, in full; in a bucket all are."""
    return place if is_in_bucket(place) else Path(place).absolute()


def _check_access(bucket: str, permissions: tuple[str, ...]) -> None:
    """Asks Cloud Storage what we may do, through the client that Orbax opens a bucket with."""
    from google.api_core.exceptions import GoogleAPIError, NotFound
    from google.auth.exceptions import GoogleAuthError
    from google.cloud import storage

    try:
        granted = storage.Client().bucket(bucket).test_iam_permissions(permissions)
    except NotFound:
        raise UserError(
            f"there is no bucket gs://{bucket}; "
            f"`gcloud storage buckets create gs://{bucket} --location=REGION` makes it"
        ) from None
    except GoogleAuthError as error:
        raise UserError(
            f"gs://{bucket} needs a login ({_first_line(error)}); "
            "`gcloud auth application-default login`"
        ) from None
    except (GoogleAPIError, OSError) as error:
        raise UserError(f"gs://{bucket} cannot be used: {_first_line(error)}") from None
    if missing := [one for one in permissions if one not in granted]:
        raise UserError(
            f"gs://{bucket} may not be used: {', '.join(missing)} is not granted; give this "
            "account roles/storage.objectUser and roles/storage.legacyBucketReader on the bucket"
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]

"""Paths on disk or in a bucket of Google Cloud Storage (`gs://BUCKET/FOLDER`)."""

import importlib.util
import logging
import re
from pathlib import Path
from typing import TypeAlias

import fsspec.config
from etils import epath

from research.common.errors import UserError

# Other modules use only the methods that both have, and the functions below where they differ.
AnyPath: TypeAlias = Path | epath.Path

_READ = ("storage.buckets.get", "storage.objects.get", "storage.objects.list")
_WRITE = (*_READ, "storage.objects.create", "storage.objects.delete")


def as_path(text: str, write: bool = False) -> AnyPath:
    """Parses a path from the command line.

    Args:
      text: a path on disk, or `gs://BUCKET/FOLDER`.
      write: whether the path will also be written to.

    Raises:
      UserError: the path is invalid, or permissions for its bucket are missing. Checked here, so
        that a run does not fail hours later when it saves.
    """
    if "://" not in text and not text.startswith("gs:"):
        return Path(text)
    bucket = re.fullmatch(r"gs://([a-z0-9][-_.a-z0-9]+[a-z0-9])(/.*)?", text)
    if bucket is None:
        raise UserError(f"invalid path '{text}': expected a path on disk or gs://BUCKET/FOLDER")
    if importlib.util.find_spec("gcsfs") is None:
        raise UserError(f'cannot open {text}: missing gcsfs; pip install -e ".[tpu]"')
    # A cached listing would miss new files of other processes.
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    # These loggers repeat raised errors, some with tracebacks.
    for library in ("gcsfs", "google.auth"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    _check_access(bucket[1], _WRITE if write else _READ)
    return epath.Path(text)


def is_in_bucket(path: AnyPath) -> bool:
    """Returns whether a path is in a bucket."""
    return str(path).startswith("gs://")


def absolute(path: AnyPath) -> AnyPath:
    """Returns the absolute path; paths in buckets always are."""
    return path if is_in_bucket(path) else Path(path).absolute()


def _check_access(bucket: str, permissions: tuple[str, ...]) -> None:
    """Checks the permissions for a bucket, with the client that Orbax uses.

    Raises:
      UserError: the bucket, a permission or the login is missing.
    """
    from google.api_core.exceptions import GoogleAPIError, NotFound
    from google.auth.exceptions import GoogleAuthError
    from google.cloud import storage

    try:
        granted = storage.Client().bucket(bucket).test_iam_permissions(permissions)
    except NotFound:
        raise UserError(
            f"missing bucket gs://{bucket}; create it by "
            f"`gcloud storage buckets create gs://{bucket} --location=REGION`"
        ) from None
    except GoogleAuthError as error:
        raise UserError(
            f"cannot open gs://{bucket}: missing login ({_first_line(error)}); "
            "run `gcloud auth application-default login`"
        ) from None
    except (GoogleAPIError, OSError) as error:
        raise UserError(f"cannot open gs://{bucket}: {_first_line(error)}") from None
    if missing := [permission for permission in permissions if permission not in granted]:
        raise UserError(
            f"missing permission {', '.join(missing)} for gs://{bucket}; grant this account "
            "roles/storage.objectUser and roles/storage.legacyBucketReader on the bucket"
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]

"""Checks before anything is created. Each error names its remedy."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from launch.cloud import Cloud, State
from launch.gcloud import GcloudError, Kind, LocalHost, call
from launch.plan import Plan
from launch.source import Source
from launch.workers import code_path
from research.common.errors import UserError

_REMEDY = {
    Kind.LOGIN: "run `gcloud auth login`",
    Kind.DISABLED: "run `gcloud services enable tpu.googleapis.com compute.googleapis.com`",
    Kind.DENIED: "check the zone's name, and request the role TPU Admin (roles/tpu.admin)",
    Kind.QUOTA: "request quota at console.cloud.google.com/iam-admin/quotas, or try another zone",
    Kind.CAPACITY: "remove --direct to wait in the queue, or try another zone",
    Kind.TAKEN: "choose another name",
    Kind.USAGE: "run `gcloud components update`, or correct the flag that it names",
    Kind.ABSENT: "check the names",
    Kind.TRANSIENT: "try again",
    Kind.OTHER: "see https://cloud.google.com/tpu/docs/troubleshooting",
}


def error_message(kind: Kind, message: str) -> str:
    """Formats an error of the cloud and its remedy as one line."""
    text = re.sub(r"^ERROR: \([\w.-]+\) ", "", message)
    return f"{kind.value}: {text}; {_REMEDY[kind]}"


def check_gcloud(local_host: LocalHost) -> None:
    """Checks that gcloud is installed and logged in.

    Raises:
      UserError: it is not.
    """
    listed = ["gcloud", "auth", "list", "--filter=status:ACTIVE", "--format=value(account)"]
    if not local_host.run(listed).stdout.strip():
        raise UserError("gcloud is not logged in; run `gcloud auth login`")


def gcloud_property(local_host: LocalHost, name: str, flag: str) -> str:
    """Returns a property of gcloud's configuration, the default of a missing flag.

    Raises:
      UserError: the property is not set.
    """
    value = local_host.run(["gcloud", "config", "get", name]).stdout.strip()
    if not value or value == "(unset)":
        raise UserError(f"missing {flag}: set {flag}=..., or run `gcloud config set {name} ...`")
    return value


def check_arguments(plan: Plan, source: Source) -> None:
    """Checks the config file and the workdir of a training.

    Raises:
      UserError: the config is missing or not committed, or the workdir is not in a bucket.
    """
    configs = [text[9:] for text in plan.arguments if text.startswith("--config=")]
    if not configs:
        raise UserError("missing --config: write `-- --config=experiments/... --workdir=gs://...`")
    path = configs[-1].partition(":")[0]
    if not source.contains(path):
        raise UserError(f"unknown --config={path}: not in the commit; check the path, or commit it")
    if not re.fullmatch(r"gs://[a-z0-9][\w.-]+/.+", plan.workdir):
        raise UserError(
            f"invalid --workdir={plan.workdir}: expected gs://BUCKET/PATH, which outlives the VMs"
        )


def check_name_is_free(cloud: Cloud, local_host: LocalHost) -> None:
    """Checks that the plan's name is not in use, which also validates the project and the zone.

    Raises:
      UserError: the name is in use, or the cloud rejects the request.
    """
    name = cloud.plan.name
    try:
        found = cloud.describe(local_host)
    except GcloudError as error:
        raise UserError(error_message(error.kind, error.message)) from None
    if found.state not in (State.ABSENT, State.REMAINS):
        raise UserError(
            f"{name} already exists in {cloud.plan.zone} ({found.detail}); follow it with "
            f"`attach {name}`, delete it with `delete {name}`, or choose another name"
        )


def send_code(plan: Plan, source: Source, local_host: LocalHost) -> None:
    """Uploads the code to the workdir, from which the workers of all attempts download it.

    Raises:
      UserError: the bucket does not exist or is not writable.
    """
    path = code_path(plan.workdir)
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "code.tar.gz"
        packed.write_bytes(source.archive())
        try:
            call(local_host, ["gcloud", "storage", "cp", str(packed), path, "--quiet"], tries=3)
        except GcloudError as error:
            bucket = plan.workdir.split("/")[2]
            raise UserError(
                f"cannot write to gs://{bucket} ({error.message}); create it with `gcloud storage "
                f"buckets create gs://{bucket} --location={plan.zone.rpartition('-')[0]}`, or "
                "request roles/storage.objectUser and roles/storage.legacyBucketReader"
            ) from None


def last_attempt(plan: Plan, local_host: LocalHost) -> int:
    """Returns the number of the last attempt with logs in the workdir; 0 if there is none.

    New attempts count on from it, so that they do not overwrite earlier logs and results.
    """
    listed = local_host.run(["gcloud", "storage", "ls", f"{plan.workdir}/logs/"])
    return max(map(int, re.findall(r"/attempt-(\d+)/", listed.stdout)), default=0)

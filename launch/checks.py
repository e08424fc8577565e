"""What is looked at before anything is created: a mistake is told now, with its remedy."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from launch.cloud import Cloud, State
from launch.gcloud import GcloudError, Kind, Laptop, call
from launch.plan import Plan
from launch.source import Source
from launch.workers import code_place
from research.common.errors import UserError

_REMEDY = {
    Kind.LOGIN: "run `gcloud auth login`",
    Kind.DISABLED: "run `gcloud services enable tpu.googleapis.com compute.googleapis.com`",
    Kind.DENIED: "look at the zone's name, and ask for the role TPU Admin (roles/tpu.admin)",
    Kind.QUOTA: "ask for quota at console.cloud.google.com/iam-admin/quotas, or try another zone",
    Kind.CAPACITY: "leave out --direct to wait in the queue, or try another zone",
    Kind.TAKEN: "choose another name",
    Kind.USAGE: "run `gcloud components update`, or change what it names",
    Kind.ABSENT: "look at the names",
    Kind.TRANSIENT: "try again",
    Kind.OTHER: "see https://cloud.google.com/tpu/docs/troubleshooting",
}


def in_words(kind: Kind, says: str) -> str:
    """A refusal of the cloud in one line, with what to do."""
    said = re.sub(r"^ERROR: \([\w.-]+\) ", "", says)
    return f"{kind.value}: {said}; {_REMEDY[kind]}"


def check_gcloud(laptop: Laptop) -> None:
    """Refuses a machine without gcloud, or where nobody is logged in."""
    listed = ["gcloud", "auth", "list", "--filter=status:ACTIVE", "--format=value(account)"]
    if not laptop.run(listed).stdout.strip():
        raise UserError("gcloud is not logged in; run `gcloud auth login`")


def configured(laptop: Laptop, name: str, flag: str) -> str:
    """A property of gcloud's configuration, where the command line does not have the flag.

    Raises:
      UserError: it has none.
    """
    value = laptop.run(["gcloud", "config", "get", name]).stdout.strip()
    if not value or value == "(unset)":
        raise UserError(f"no {flag}; give {flag}=..., or run `gcloud config set {name} ...`")
    return value


def check_arguments(plan: Plan, source: Source) -> None:
    """Refuses a training that cannot begin: no config, or a place that dies with the machines."""
    configs = [text[9:] for text in plan.arguments if text.startswith("--config=")]
    if not configs:
        raise UserError("no --config; write `-- --config=experiments/... --workdir=gs://...`")
    path = configs[-1].partition(":")[0]
    if not source.holds(path):
        raise UserError(f"--config={path} is not in the commit; look at its name, or commit it")
    if not re.fullmatch(r"gs://[a-z0-9][\w.-]+/.+", plan.workdir):
        raise UserError(
            f"--workdir={plan.workdir} dies with the machines; use --workdir=gs://BUCKET/PATH"
        )


def check_free(cloud: Cloud, laptop: Laptop) -> None:
    """Refuses a name that is taken; asks the cloud, which refuses a wrong project or zone."""
    name = cloud.plan.name
    try:
        found = cloud.describe(laptop)
    except GcloudError as error:
        raise UserError(in_words(error.kind, error.says)) from None
    if found.state not in (State.ABSENT, State.REMAINS):
        raise UserError(
            f"there is a {name} in {cloud.plan.zone} ({found.detail}); go on with it by "
            f"`attach {name}`, end it by `delete {name}`, or choose another name"
        )


def send_code(plan: Plan, source: Source, laptop: Laptop) -> None:
    """Writes the code into the run's folder, from where all workers of all attempts take it.

    Raises:
      UserError: the bucket is not there, or must not be written to.
    """
    place = code_place(plan.workdir)
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "code.tar.gz"
        packed.write_bytes(source.archive())
        try:
            call(laptop, ["gcloud", "storage", "cp", str(packed), place, "--quiet"], tries=3)
        except GcloudError as error:
            bucket = plan.workdir.split("/")[2]
            raise UserError(
                f"cannot write to gs://{bucket} ({error.says}); make it by `gcloud storage buckets "
                f"create gs://{bucket} --location={plan.zone.rpartition('-')[0]}`, or ask for "
                "roles/storage.objectUser and roles/storage.legacyBucketReader"
            ) from None


def attempts(plan: Plan, laptop: Laptop) -> int:
    """The number of the last attempt that left logs in the run's folder; 0: there was none.

    What earlier launches left there, logs and verdicts, stays theirs.
    """
    listed = laptop.run(["gcloud", "storage", "ls", f"{plan.workdir}/logs/"])
    return max(map(int, re.findall(r"/attempt-(\d+)/", listed.stdout)), default=0)

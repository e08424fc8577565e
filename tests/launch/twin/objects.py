"""Objects of Cloud Storage as files: FOLDER/BUCKET/OBJECT, so that a test can look at them."""

import base64
import hashlib
import os
import threading
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# What a caller may do; `Objects.deny` takes some of them away.
PERMISSIONS = (
    "storage.buckets.get",
    "storage.objects.create",
    "storage.objects.delete",
    "storage.objects.get",
    "storage.objects.list",
)


class Refused(Exception):
    """A request that is answered by an error.

    Args:
      status: of HTTP.
      reason: in words.
    """

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Match:
    """Preconditions on an object's generation; 0 is that of one that is not there."""

    generation: int | None = None
    not_generation: int | None = None

    def check(self, found: int) -> None:
        if self.generation is not None and self.generation != found:
            raise Refused(412, "At least one of the pre-conditions you specified did not hold.")
        if self.not_generation is not None and self.not_generation == found:
            raise Refused(304, "Not Modified")


@dataclass(frozen=True)
class Stored:
    """An object: its bytes, and what tells one version from the next."""

    bucket: str
    name: str
    data: bytes
    generation: int

    @property
    def resource(self) -> dict[str, Any]:
        """The object as the JSON API describes it."""
        time = datetime.fromtimestamp(self.generation / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "kind": "storage#object",
            "id": f"{self.bucket}/{self.name}/{self.generation}",
            "name": self.name,
            "bucket": self.bucket,
            "generation": str(self.generation),
            "metageneration": "1",
            "size": str(len(self.data)),
            "md5Hash": base64.b64encode(hashlib.md5(self.data).digest()).decode(),
            "contentType": "application/octet-stream",
            "storageClass": "STANDARD",
            "timeCreated": time,
            "updated": time,
        }


class Objects:
    """The buckets in a folder. A file's time of change, in nanoseconds, is its generation."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._lock = threading.Lock()
        self._missing: dict[str, set[str]] = {}
        (folder / ".unfinished").mkdir(parents=True, exist_ok=True)

    def create(self, bucket: str) -> None:
        """A new, empty bucket."""
        (self.folder / bucket).mkdir()

    def deny(self, bucket: str, *permissions: str) -> None:
        """Takes permissions on a bucket away, by default all; `allow` gives them back."""
        self._missing[bucket] = set(permissions or PERMISSIONS)

    def allow(self, bucket: str) -> None:
        """Gives all permissions on a bucket."""
        self._missing.pop(bucket, None)

    def permitted(self, bucket: str, permissions: list[str]) -> list[str]:
        """Those of the permissions that the caller has."""
        self._folder_of(bucket)
        return [one for one in permissions if one not in self._missing.get(bucket, ())]

    def require(self, bucket: str, action: str) -> None:
        """Refuses what is not permitted, and a bucket that is not there."""
        permission = f"storage.{action}"
        if not self.permitted(bucket, [permission]):
            raise Refused(403, f"The caller does not have {permission} access to {bucket}.")

    def read(self, bucket: str, name: str, match: Match = Match()) -> Stored:
        """An object as it is now."""
        self.require(bucket, "objects.get")
        found = self._find(bucket, name)
        match.check(found.generation if found else 0)
        if found is None:
            raise Refused(404, f"No such object: {bucket}/{name}")
        return found

    def write(self, bucket: str, name: str, data: bytes, match: Match = Match()) -> Stored:
        """Puts an object there, whole, in place of one that may be there."""
        self.require(bucket, "objects.create")
        unfinished = self.folder / ".unfinished" / uuid.uuid4().hex
        with self._lock:
            before = self._generation(bucket, name)
            match.check(before)
            if before:
                self.require(bucket, "objects.delete")
            unfinished.write_bytes(data)
            generation = max(unfinished.stat().st_mtime_ns, before + 1)
            os.utime(unfinished, ns=(generation, generation))
            path = self._path(bucket, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished.replace(path)
        return Stored(bucket, name, data, generation)

    def delete(self, bucket: str, name: str, match: Match = Match()) -> None:
        """Removes an object, and the folders that are empty without it."""
        self.require(bucket, "objects.delete")
        with self._lock:
            before = self._generation(bucket, name)
            match.check(before)
            if not before:
                raise Refused(404, f"No such object: {bucket}/{name}")
            path = self._path(bucket, name)
            path.unlink()
            for folder in path.parents:
                if folder == self.folder / bucket or any(folder.iterdir()):
                    break
                folder.rmdir()

    def names(self, bucket: str, prefix: str) -> list[str]:
        """The names that begin with a prefix, sorted as bytes are."""
        self.require(bucket, "objects.list")
        root = self._folder_of(bucket)
        start = root / prefix.rpartition("/")[0]
        files = [Path(top) / file for top, _, names in os.walk(start) for file in names]
        names = (file.relative_to(root).as_posix() for file in files)
        return sorted((n for n in names if n.startswith(prefix)), key=str.encode)

    def describe(self, bucket: str, name: str) -> dict[str, Any] | None:
        """The resource of a listed object; None where it went away meanwhile."""
        found = self._find(bucket, name)
        return found.resource if found else None

    def _find(self, bucket: str, name: str) -> Stored | None:
        try:
            with self._path(bucket, name).open("rb") as file:
                return Stored(bucket, name, file.read(), os.fstat(file.fileno()).st_mtime_ns)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None

    def _generation(self, bucket: str, name: str) -> int:
        path = self._path(bucket, name)
        return path.stat().st_mtime_ns if path.is_file() else 0

    def _path(self, bucket: str, name: str) -> Path:
        # A disk has no file "a/", nor a file and a folder of the same name; none of ours needs it.
        if not name or any(part in ("", ".", "..") for part in name.split("/")):
            raise Refused(400, f"The twin cannot hold an object named '{name}'.")
        return self._folder_of(bucket) / name

    def _folder_of(self, bucket: str) -> Path:
        folder = self.folder / bucket
        if bucket.startswith(".") or not folder.is_dir():
            raise Refused(404, "The specified bucket does not exist.")
        return folder

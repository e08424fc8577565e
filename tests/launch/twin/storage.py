"""`gcloud storage`: objects, in memory or in the folder that the bucket's server serves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from tests.launch.twin.command import Call, Completed, Handler, Refusal
from tests.launch.twin.objects import Refused

if TYPE_CHECKING:
    from tests.launch.twin.cloud import FakeCloud


class Held(NamedTuple):
    """An object in memory."""

    data: bytes


class MemoryObjects:
    """Buckets without a disk, with the methods of `objects.Objects` that the twin needs."""

    def __init__(self, *buckets: str):
        self.buckets: dict[str, dict[str, bytes]] = {name: {} for name in buckets}
        self.denied: set[str] = set()

    def read(self, bucket: str, name: str) -> Held:
        if name not in self._bucket(bucket):
            raise Refused(404, f"No such object: {bucket}/{name}")
        return Held(self.buckets[bucket][name])

    def write(self, bucket: str, name: str, data: bytes) -> Any:
        self._bucket(bucket)[name] = data

    def delete(self, bucket: str, name: str) -> None:
        self.read(bucket, name)
        del self.buckets[bucket][name]

    def names(self, bucket: str, prefix: str) -> list[str]:
        return sorted(name for name in self._bucket(bucket) if name.startswith(prefix))

    def _bucket(self, bucket: str) -> dict[str, bytes]:
        if bucket not in self.buckets:
            raise Refused(404, "The specified bucket does not exist.")
        if bucket in self.denied:
            raise Refused(403, "The caller does not have storage.objects access.")
        return self.buckets[bucket]


class StorageApi:
    """`gcloud storage`, on the caller's disk and the buckets."""

    def __init__(self, cloud: FakeCloud):
        self._cloud = cloud
        self._objects = cloud.objects

    def handlers(self) -> dict[str, Handler]:
        acts: dict[str, Handler] = {
            "cp": self._cp,
            "ls": self._ls,
            "cat": self._cat,
            "rm": self._rm,
            "rsync": self._rsync,
            "buckets describe": self._bucket,
        }
        return {f"storage {name}": _guarded(act) for name, act in acts.items()}

    def _cp(self, call: Call) -> None:
        *sources, target = call.words
        for source in sources:
            name = source.rstrip("/").rpartition("/")[2]
            into = target.endswith("/") or (
                not is_remote(target) and call.disk.path(target).is_dir()
            )
            if "recursive" in call.flags:
                self._tree(call, source, f"{target.rstrip('/')}/{name}" if into else target)
            else:
                place = f"{target.rstrip('/')}/{name}" if into else target
                self._put(call, place, self._get(call, source))

    def _rsync(self, call: Call) -> None:
        self._tree(call, *call.words)

    def _tree(self, call: Call, source: str, target: str) -> None:
        for name in self._under(call, source):
            data = self._get(call, f"{source.rstrip('/')}/{name}")
            self._put(call, f"{target.rstrip('/')}/{name}", data)

    def _under(self, call: Call, place: str) -> list[str]:
        """Names of all files or objects below a place."""
        if is_remote(place):
            bucket, name = split(place.rstrip("/") + "/")
            return [found[len(name) :] for found in self._objects.names(bucket, name)]
        root = call.disk.path(place)
        if not root.is_dir():
            raise Refusal(f"Did not find existing container at: {place}")
        return [file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()]

    def _get(self, call: Call, place: str) -> bytes:
        if not is_remote(place):
            return call.disk.read(place)
        try:
            return bytes(self._objects.read(*split(place)).data)
        except Refused as refused:
            if refused.status != 404:
                raise
            raise Refusal(f"The following URLs matched no objects or files:\n{place}") from None

    def _put(self, call: Call, place: str, data: bytes) -> None:
        if is_remote(place):
            self._objects.write(*split(place), data)
            return
        path = call.disk.path(place)
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True)
        path.write_bytes(data)

    def _ls(self, call: Call) -> Any:
        places = [self._found(place, "recursive" in call.flags) for place in call.words]
        return "".join(f"{line}\n" for lines in places for line in lines)

    def _found(self, place: str, recursive: bool) -> list[str]:
        bucket, name = split(place.removesuffix("*").removesuffix("*"))
        names = self._objects.names(bucket, name)
        if name and not place.endswith(("/", "*")):
            names = [one for one in names if one == name or one.startswith(name + "/")]
        if not names and name:
            raise Refusal("One or more URLs matched no objects.")
        if not recursive:
            depth = len(name) if name.endswith("/") or not name else len(name) + 1
            cut = (one[: end + 1] if (end := one.find("/", depth)) >= 0 else one for one in names)
            names = list(dict.fromkeys(cut))
        return [f"gs://{bucket}/{one}" for one in names]

    def _cat(self, call: Call) -> Any:
        data = b"".join(self._get(call, place) for place in call.words)
        return Completed(0, data.decode(errors="surrogateescape"), "")

    def _rm(self, call: Call) -> None:
        for place in call.words:
            bucket, name = split(place)
            if "recursive" in call.flags:
                prefix = name.rstrip("*").rstrip("/")
                names = self._objects.names(bucket, prefix and prefix + "/")
            else:
                names = [name]
            for one in names:
                self._objects.delete(bucket, one)

    def _bucket(self, call: Call) -> Any:
        bucket, _ = split(call.name)
        try:
            self._objects.names(bucket, "")
        except Refused as refused:
            if refused.status != 404:
                raise
            raise Refusal(f"gs://{bucket} not found: 404.") from None
        return {"name": bucket, "location": "US-CENTRAL1", "storage_url": f"gs://{bucket}/"}


def _guarded(inner: Handler) -> Handler:
    """Says what a bucket refuses as gcloud does."""

    def act(call: Call) -> Any:
        try:
            return inner(call)
        except Refused as refused:
            raise Refusal(f"HTTPError {refused.status}: {refused}") from None

    return act


def is_remote(place: str) -> bool:
    """Whether a place is in a bucket."""
    return place.startswith("gs://")


def split(place: str) -> tuple[str, str]:
    """Bucket and object of gs://bucket/object.

    Raises:
      Refusal: it is none.
    """
    if not is_remote(place):
        raise Refusal(f"Expected a URL like gs://BUCKET, got [{place}]")
    bucket, _, name = place[5:].partition("/")
    return bucket, name

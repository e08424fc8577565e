"""A server that speaks Cloud Storage's JSON API, as far as gcsfs, TensorStore and Google's own
client need it: https://cloud.google.com/storage/docs/json_api/v1.

    with Bucket(folder, "runs") as bucket:
        subprocess.run([..., "--workdir=gs://runs/a"], env=os.environ | bucket.environment)
"""

import json
import re
import threading
import uuid
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.launch.twin.objects import PERMISSIONS, Match, Objects, Refused, Stored


class Answer(NamedTuple):
    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = MappingProxyType({})


class Request(NamedTuple):
    method: str
    path: str  # without the query, still quoted
    query: dict[str, str]
    headers: dict[str, str]  # names in small letters
    body: bytes

    @property
    def match(self) -> Match:
        """The preconditions on the generation."""
        given = (self.query.get(name) for name in ("ifGenerationMatch", "ifGenerationNotMatch"))
        return Match(*(int(one) if one is not None else None for one in given))


class Bucket:
    """Buckets that lie in a folder, served on a port of this machine while the context is open.

    Args:
      folder: where they lie, an object as FOLDER/BUCKET/OBJECT.
      names: buckets to make, unless they are there.
      page: the most objects in a page of a listing.
    """

    def __init__(self, folder: Path, *names: str, page: int = 1000):
        self.objects = Objects(folder)
        self.asked: list[str] = []  # "GET /storage/v1/b/runs", in order
        self._page, self._unwell = page, 0
        self._uploads: dict[str, tuple[str, str, Match, bytearray]] = {}
        self._count = threading.Lock()
        for name in names:
            if not (folder / name).exists():
                self.objects.create(name)
        self._server = _Server(("127.0.0.1", 0), _handler(self))

    def __enter__(self) -> "Bucket":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Where it is served."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process must have in its environment for gs:// to be here, without a login."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,  # gcsfs and google-cloud-storage
            "FSSPEC_GCS_TOKEN": "anon",
            # It asks by gRPC, which is not spoken here, what kind of bucket this is.
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
            "CLOUD_STORAGE_EMULATOR_ENDPOINT": self.url,  # Google's C++ client, in array_record
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "anyone",  # TensorStore's
        }

    def fail_every(self, count: int) -> None:
        """Answers each so manieth request by 503, as a busy service does; 0: none."""
        self._unwell = count

    def answer(self, request: Request) -> Answer:
        """The answer to any request."""
        with self._count:
            self.asked.append(f"{request.method} {unquote(request.path)}")
            unwell = self._unwell and len(self.asked) % self._unwell == 0
        try:
            if unwell:
                raise Refused(503, "The service is unavailable; try again.")
            for method, pattern, respond in _ROUTES:
                found = re.fullmatch(pattern, request.path)
                if found and request.method in method.split():
                    return respond(self, request, *map(unquote, found.groups()))
            raise Refused(501, f"The twin does not know {request.method} {request.path}")
        except Refused as refused:
            error = {"code": refused.status, "message": str(refused)}
            body = b"" if refused.status == 304 else json.dumps({"error": error}).encode()
            return Answer(refused.status, body, {"Content-Type": "application/json"})

    def describe(self, request: Request, name: str) -> Answer:
        self.objects.require(name, "buckets.get")
        resource = {"kind": "storage#bucket", "id": name, "name": name, "location": "US"}
        return _json(resource | {"locationType": "multi-region", "storageClass": "STANDARD"})

    def permissions(self, request: Request, name: str) -> Answer:
        return _json({"permissions": self.objects.permitted(name, list(PERMISSIONS))})

    def listing(self, request: Request, bucket: str) -> Answer:
        """A page of objects, and of prefixes where a delimiter is given."""
        asked = request.query
        prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter", "")
        after, end = asked.get("pageToken", ""), asked.get("endOffset", "")
        items: list[Any] = []
        prefixes: dict[str, None] = {}
        last, more = "", False
        for name in self.objects.names(bucket, prefix):
            if name < asked.get("startOffset", "") or (end and name >= end) or name <= after:
                continue
            cut = name.find(delimiter, len(prefix)) if delimiter else -1
            group = name[: cut + len(delimiter)] if cut >= 0 else ""
            if group and group in (*prefixes, after):
                continue
            if len(items) + len(prefixes) == min(self._page, int(asked.get("maxResults", 1000))):
                more = True
                break
            # A page that ends with a prefix goes on behind all that begin with it.
            last = group + "\U0010ffff" if group else name
            if group:
                prefixes[group] = None
            elif resource := self.objects.describe(bucket, name):
                items.append(resource)
        page: dict[str, Any] = {"kind": "storage#objects", "items": items}
        page |= {"prefixes": list(prefixes)} if prefixes else {}
        return _json(page | ({"nextPageToken": last} if more else {}))

    def read(self, request: Request, bucket: str, name: str) -> Answer:
        """The bytes of an object or a range of them, or what describes it."""
        found = self.objects.read(bucket, name, request.match)
        media = request.path.startswith("/download/") or request.query.get("alt") == "media"
        return _media(found, request.headers.get("range", "")) if media else _json(found.resource)

    def delete(self, request: Request, bucket: str, name: str) -> Answer:
        self.objects.delete(bucket, name, request.match)
        return Answer(204)

    def copy(self, request: Request, bucket: str, name: str, to: str, new: str) -> Answer:
        data = self.objects.read(bucket, name).data
        resource = self.objects.write(to, new, data, request.match).resource
        if "/copyTo/" in request.path:
            return _json(resource)
        size = str(len(data))
        done = {"kind": "storage#rewriteResponse", "done": True, "resource": resource}
        return _json(done | {"totalBytesRewritten": size, "objectSize": size})

    def move(self, request: Request, bucket: str, name: str, new: str) -> Answer:
        data = self.objects.read(bucket, name).data
        moved = self.objects.write(bucket, new, data, request.match)
        self.objects.delete(bucket, name)
        return _json(moved.resource)

    def compose(self, request: Request, bucket: str, name: str) -> Answer:
        parts = [part["name"] for part in json.loads(request.body)["sourceObjects"]]
        data = b"".join(self.objects.read(bucket, part).data for part in parts)
        return _json(self.objects.write(bucket, name, data, request.match).resource)

    def upload(self, request: Request, bucket: str) -> Answer:
        """An upload in one request, or the first of one in several."""
        kind = request.query.get("uploadType")
        name = request.query.get("name", "")
        if kind == "media":
            return _json(self.objects.write(bucket, name, request.body, request.match).resource)
        if kind == "multipart":
            metadata, data = _parts(request)
            stored = self.objects.write(bucket, metadata.get("name", name), data, request.match)
            # The sender compares this sum with its own.
            sums = {key: value for key, value in metadata.items() if key == "crc32c"}
            return _json(stored.resource | sums)
        self.objects.require(bucket, "objects.create")
        name = name or json.loads(request.body)["name"]
        key = uuid.uuid4().hex
        self._uploads[key] = bucket, name, request.match, bytearray()
        place = f"{self.url}/upload/resumable/{key}"
        return Answer(200, b"", {"Location": place, "X-GUploader-UploadID": key})

    def resume(self, request: Request, key: str) -> Answer:
        """A part of an upload in several requests; the object is there with the last."""
        if request.method == "DELETE":
            self._uploads.pop(key, None)
            return Answer(499)
        bucket, name, match, data = self._uploads[key]
        header = request.headers.get("content-range", f"bytes 0-/{len(request.body)}")
        span = re.fullmatch(r"bytes (?:\*|(\d+)-\d*)/(\*|\d+)", header)
        if span is None:
            raise Refused(400, f"Invalid Content-Range: {header}")
        if span[1] is not None:
            data[int(span[1]) :] = request.body
        if span[2] != str(len(data)):
            return Answer(308, b"", {"Range": f"bytes=0-{len(data) - 1}"} if data else {})
        del self._uploads[key]
        return _json(self.objects.write(bucket, name, bytes(data), match).resource)

    def batch(self, request: Request) -> Answer:
        """Several requests in one; gcsfs deletes so."""
        lines = re.findall(rb"^(GET|DELETE|POST) (\S+) HTTP/1\.1", request.body, re.MULTILINE)
        boundary, parts = "batch_" + uuid.uuid4().hex, []
        for method, target in lines:
            answer = self.answer(_request(method.decode(), target.decode(), {}, b""))
            parts.append(
                f"--{boundary}\r\nContent-Type: application/http\r\n\r\n"
                f"HTTP/1.1 {answer.status} Done\r\n\r\n{answer.body.decode()}\r\n"
            )
        body = "".join(parts) + f"--{boundary}--"
        return Answer(200, body.encode(), {"Content-Type": f"multipart/mixed; boundary={boundary}"})


_B, _O = "/storage/v1/b/([^/]+)", "/o/([^/]+)"
_ROUTES: tuple[tuple[str, str, Callable[..., Answer]], ...] = (
    ("GET", _B, Bucket.describe),
    ("GET", f"{_B}/iam/testPermissions", Bucket.permissions),
    ("GET", f"{_B}/o/?", Bucket.listing),
    ("GET", f"(?:/download)?{_B}{_O}", Bucket.read),
    ("DELETE", f"{_B}{_O}", Bucket.delete),
    ("POST", f"{_B}{_O}/(?:rewriteTo|copyTo)/b/([^/]+){_O}", Bucket.copy),
    ("POST", f"{_B}{_O}/moveTo{_O}", Bucket.move),
    ("POST", f"{_B}{_O}/compose", Bucket.compose),
    ("POST", f"/upload{_B}/o/?", Bucket.upload),
    ("POST PUT DELETE", "/upload/resumable/([0-9a-f]+)", Bucket.resume),
    ("POST", "/batch/storage/v1", Bucket.batch),
)


class _Server(ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 128

    def handle_error(self, *_: object) -> None:
        """A client that was killed is no error of ours."""


def _handler(bucket: Bucket) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version, disable_nagle_algorithm, wbufsize = "HTTP/1.1", True, -1

        def respond(self) -> None:
            body = self._body()
            answer = bucket.answer(_request(self.command, self.path, dict(self.headers), body))
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if answer.status not in (204, 304):
                self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)
            self.wfile.flush()

        do_GET = do_POST = do_PUT = do_DELETE = respond

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def log_message(self, *_: object) -> None:
            """`Bucket.asked` has it."""

    return Handler


def _request(method: str, target: str, headers: dict[str, str], body: bytes) -> Request:
    parts = urlsplit(target)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    small = {name.lower(): value for name, value in headers.items()}
    return Request(method, parts.path, query, small, body)


def _json(value: dict[str, Any]) -> Answer:
    headers = {"Content-Type": "application/json; charset=UTF-8"}
    return Answer(200, json.dumps(value).encode(), headers)


def _media(found: Stored, span: str) -> Answer:
    """The bytes of an object, those of a `Range` header alone where there is one."""
    headers = {"Content-Type": "application/octet-stream"}
    headers |= {"x-goog-generation": str(found.generation), "x-goog-metageneration": "1"}
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", span)
    if asked is None:
        return Answer(200, found.data, headers)
    size = len(found.data)
    start = int(asked[1]) if asked[1] else max(0, size - int(asked[2]))
    stop = min(size, int(asked[2]) + 1) if asked[1] and asked[2] else size
    if start >= size:
        raise Refused(416, "The requested range cannot be satisfied.")
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return Answer(206, found.data[start:stop], headers)


def _parts(request: Request) -> tuple[dict[str, Any], bytes]:
    """The metadata and the bytes of an upload in two parts."""
    found = re.search(r'boundary="?([^";]+)', request.headers["content-type"])
    if found is None:
        raise Refused(400, "No boundary between the parts.")
    mark = b"--" + found[1].encode()
    body = request.body
    line = b"\r\n" if body[len(mark) :].startswith(b"\r\n") else b"\n"
    middle, end = body.index(line + mark, len(mark)), body.rindex(line + mark + b"--")
    first, second = body[len(mark) : middle], body[middle + len(line + mark) : end]
    metadata = first.split(2 * line, 1)[1]
    return json.loads(metadata), second.split(2 * line, 1)[1]

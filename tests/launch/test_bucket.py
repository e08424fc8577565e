"""The fake Cloud Storage, beyond the tests of whole runs."""

import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.launch.twin.bucket import Bucket


@pytest.fixture
def bucket(tmp_path):
    with Bucket(tmp_path, "runs", page=2) as bucket:
        yield bucket


def ask(bucket, method, path, data=None, **headers):
    """Status, body and headers of the answer."""
    request = urllib.request.Request(bucket.url + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), error.headers


def put(bucket, name, data, more=""):
    path = f"/upload/storage/v1/b/runs/o?uploadType=media&name={name}{more}"
    return ask(bucket, "POST", path, data)[0]


def test_of_many_who_create_an_object_one_succeeds(bucket):
    with ThreadPoolExecutor(8) as pool:
        tries = [pool.submit(put, bucket, "a", b"%d" % i, "&ifGenerationMatch=0") for i in range(8)]
    done = [one.result() for one in tries]
    assert sorted(done) == [200] + [412] * 7
    assert (bucket.objects.folder / "runs" / "a").read_bytes() == b"%d" % done.index(200)


def test_an_object_in_parts_is_there_with_the_last(bucket):
    path = "/upload/storage/v1/b/runs/o?uploadType=resumable&name=b%2Fc"
    place = ask(bucket, "POST", path, b"{}")[2]["Location"].removeprefix(bucket.url)
    file = bucket.objects.folder / "runs" / "b" / "c"
    status, _, headers = ask(bucket, "PUT", place, b"abc", **{"Content-Range": "bytes 0-2/*"})
    assert (status, headers["Range"], file.exists()) == (308, "bytes=0-2", False)
    assert ask(bucket, "PUT", place, b"de", **{"Content-Range": "bytes 3-4/5"})[0] == 200
    assert file.read_bytes() == b"abcde"
    download = "/download/storage/v1/b/runs/o/b%2Fc?alt=media"
    assert ask(bucket, "GET", download, Range="bytes=1-2")[:2] == (206, b"bc")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["a", "b/1", "b/2", "c/d/1", "e"]),
        ("delimiter=%2F", ["a", "b/", "c/", "e"]),
        ("prefix=b%2F", ["b/1", "b/2"]),
        ("prefix=c%2F&delimiter=%2F", ["c/d/"]),
        ("startOffset=b%2F2&endOffset=e", ["b/2", "c/d/1"]),
    ],
)
def test_a_listing_in_pages_has_all(bucket, query, expected):
    for name in ("a", "b%2F1", "b%2F2", "c%2Fd%2F1", "e"):
        put(bucket, name, b"")
    found, token, pages = [], "", 0
    while True:
        more = f"&pageToken={urllib.request.quote(token)}" if token else ""
        page = json.loads(ask(bucket, "GET", f"/storage/v1/b/runs/o?{query}{more}")[1])
        found += page.get("prefixes", []) + [one["name"] for one in page["items"]]
        pages, token = pages + 1, page.get("nextPageToken")
        if not token:
            break
    assert sorted(found) == expected
    assert pages == max(1, -(-len(expected) // 2))


def test_faults_are_answered_as_cloud_storage_does(bucket):
    put(bucket, "a", b"1")
    bucket.objects.deny("runs", "storage.objects.create")
    assert put(bucket, "a", b"2") == 403
    assert ask(bucket, "GET", "/storage/v1/b/runs/o/a?alt=media")[:2] == (200, b"1")
    assert ask(bucket, "GET", "/storage/v1/b/absent/o/a")[0] == 404
    bucket.fail_every(2)
    statuses = [ask(bucket, "GET", "/storage/v1/b/runs/o/a")[0] for _ in range(4)]
    assert sorted(statuses) == [200, 200, 503, 503]

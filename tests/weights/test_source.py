import sys

import numpy as np
import pytest

from research.common.errors import UserError
from research.weights.safetensors import save_safetensors
from research.weights.source import locate, read_tensors
from tests.weights.torch_files import tensor, write_legacy, write_zip

A = np.arange(6, dtype=np.float32).reshape(2, 3)
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def write(path):
    """Writes a file in the format of its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_safetensors(path, {"a": A})
    else:
        (write_legacy if "legacy" in path.name else write_zip)(path, {"a": tensor(A)})
    return path


def refused(source, *words):
    with pytest.raises(UserError) as error:
        read_tensors(str(source))
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth", "legacy.pt", "x.bin"])
def test_a_file_is_read_by_its_content(tmp_path, name):
    path = write(tmp_path / name)
    for name in (path, path.rename(tmp_path / "no_suffix")):
        if name.exists():
            assert np.array_equal(read_tensors(str(name))["a"], A)


def test_a_header_whose_length_begins_like_a_pickle_is_read(tmp_path):
    lengths = set()
    for padding in range(0, 256, 8):
        save_safetensors(tmp_path / "x.safetensors", {"a": A}, {"k": "v" * padding})
        lengths.add((tmp_path / "x.safetensors").read_bytes()[0])
        assert np.array_equal(read_tensors(str(tmp_path / "x.safetensors"))["a"], A)
    assert 0x80 in lengths


def test_the_only_weights_file_of_a_folder_is_read(tmp_path):
    path = write(tmp_path / "model.safetensors")
    (tmp_path / "README.md").touch()
    assert locate(str(tmp_path)) == path
    write(tmp_path / "other.pth")
    refused(tmp_path, "model.safetensors, other.pth")


def test_a_workdir_is_located_but_holds_no_weights_file(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    assert locate(str(tmp_path)) == tmp_path
    refused(tmp_path, "workdir of a run")


def test_a_folder_without_weights_is_refused(tmp_path):
    refused(tmp_path, str(tmp_path), "no weights file", ".safetensors")


@pytest.mark.parametrize("source", ["folder/x", "x.pth", "/x.safetensors"])
def test_a_missing_file_is_refused(source):
    refused(source, f"missing file {source}", "hf:OWNER/NAME")


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"", "empty"), (b"<!DOCTYPE html>", "unknown format"), (LFS, "git lfs pull")],
)
def test_a_file_of_another_format_is_refused(tmp_path, content, word):
    (tmp_path / "x.pth").write_bytes(content)
    refused(tmp_path / "x.pth", "x.pth", word)


def test_a_damaged_file_is_refused_whatever_its_suffix(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"nonsense and more")
    refused(tmp_path / "x.safetensors", "damaged")
    (tmp_path / "x.safetensors").write_bytes(b"nonsense{and more")
    refused(tmp_path / "x.safetensors", "header")
    (tmp_path / "x.pth").write_bytes(b"\x80\x02cos\nsystem\n.")
    refused(tmp_path / "x.pth", "'os.system'")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Installs a package that must not be imported, with these weights files."""

    def install(*files):
        paths = [write(tmp_path / "speaker" / file) for file in files]
        (tmp_path / "speaker" / "__init__.py").write_text("raise AssertionError('imported')")
        info = tmp_path / "speaker_encoder-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: speaker-encoder\n")
        record = ["speaker/__init__.py", *(f"speaker/{file}" for file in files)]
        (info / "RECORD").write_text("".join(f"{name},,\n" for name in record))
        monkeypatch.syspath_prepend(tmp_path)
        return paths

    return install


def test_the_weights_of_a_package_are_read_without_importing_it(package):
    (path,) = package("models/legacy.pth")
    assert locate("speaker-encoder") == path == locate("Speaker_Encoder")
    assert np.array_equal(read_tensors("speaker-encoder")["a"], A)


def test_a_package_without_or_with_several_weights_is_refused(package):
    refused("numpy", "package numpy", "no weights file")
    package("a.pth", "b.pth")
    refused("speaker-encoder", "speaker/a.pth, speaker/b.pth")


def test_an_unknown_package_is_refused(package):
    package("a.pth")
    refused("speaker-encoders", "unknown source", "did you mean 'speaker-encoder'?")
    refused("zzzzzzzzzzzz", "pip install zzzzzzzzzzzz")


def test_the_hub_needs_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused("hf:owner/name", 'pip install -e ".[hub]"')


@pytest.mark.parametrize("source", ["hf:", "hf:name", "hf:owner/na me", "hf:/x/y", "hf:a/b/"])
def test_an_invalid_repository_is_refused(source):
    refused(source, f"'{source}'", "hf:OWNER/NAME/FILE")


REVISION = "0" * 40


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The Hub without network: writes files of `owner/name` into an empty local cache."""
    pytest.importorskip("huggingface_hub.errors")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def cache(name):
        folder = tmp_path / "models--owner--name"
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        (folder / "refs" / "main").write_text(REVISION)
        return write(folder / "snapshots" / REVISION / name)

    return cache


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_the_usual_file_of_a_repository_is_read(hub, name):
    path = hub(name)
    assert locate("hf:owner/name") == path
    assert np.array_equal(read_tensors("hf:owner/name")["a"], A)


def test_safetensors_are_read_before_pickles(hub):
    hub("pytorch_model.bin")
    path = hub("model.safetensors")
    assert locate("hf:owner/name") == path


def test_a_named_file_of_a_repository_is_read(hub):
    hub("model.safetensors")
    path = hub("folder/legacy.pth")
    assert locate("hf:owner/name/folder/legacy.pth") == path


def test_a_repository_outside_the_cache_needs_the_network(hub):
    refused("hf:owner/name", "hf:owner/name", "no network")
    refused("hf:owner/name/x.pth", "no network")


def test_errors_of_the_hub_are_one_line(hub, monkeypatch):
    import huggingface_hub
    from huggingface_hub import errors

    expected = {
        errors.RepositoryNotFoundError: "unknown repository 'owner/name'",
        errors.GatedRepoError: "https://huggingface.co/owner/name",
        errors.RemoteEntryNotFoundError: "neither model.safetensors nor pytorch_model.bin",
        errors.HfHubHTTPError: "cannot download hf:owner/name: server",
        errors.HFValidationError: "cannot download hf:owner/name: server",
        ConnectionResetError: "cannot download hf:owner/name: server",
    }
    for error, words in expected.items():

        def fail(*_, error=error, **options):
            failure = error.__new__(error, "server\nsecond line")
            failure.args = ("server\nsecond line",)
            raise failure

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
        refused("hf:owner/name", words)

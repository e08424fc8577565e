import pytest

from research.common.errors import UserError
from research.weights.pytorch import read_pytorch
from tests.weights import torch_files

WRITERS = {"zip": torch_files.write_zip, "legacy": torch_files.write_legacy}


@pytest.fixture(params=WRITERS)
def write(request, tmp_path):
    """Writes a value in both formats and returns the path."""

    def write(value, **options):
        WRITERS[request.param](tmp_path / "weights.pt", value, **options)
        return tmp_path / "weights.pt"

    return write


@pytest.fixture
def write_zip(tmp_path):
    def write(value, **options):
        torch_files.write_zip(tmp_path / "weights.pt", value, **options)
        return tmp_path / "weights.pt"

    return write


@pytest.fixture
def refused():
    """Asserts that a file is refused when it is opened, in one line with these words."""

    def refused(path, *words):
        with pytest.raises(UserError) as error:
            read_pytorch(path)
        message = str(error.value)
        assert message.startswith(f"cannot read {path}: ") and "\n" not in message
        assert all(word in message.replace(str(path), "") for word in words), message

    return refused

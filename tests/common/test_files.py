import pytest

from research.common.errors import UserError
from research.common.files import new_folder


@pytest.mark.parametrize("exists", [False, True])
def test_a_new_folder_appears_when_it_is_complete(tmp_path, exists):
    path = tmp_path / "a" / "b"
    if exists:
        path.mkdir(parents=True)
    with new_folder(path) as folder:
        (folder / "x").write_text("1")
        assert not exists or not any(path.iterdir())
    assert [file.name for file in path.iterdir()] == ["x"]
    assert [file.name for file in path.parent.iterdir()] == ["b"]


def test_an_unfinished_folder_is_removed(tmp_path):
    with pytest.raises(KeyError), new_folder(tmp_path / "a") as folder:
        assert not any(folder.iterdir())
        (folder / "x").write_text("1")
        raise KeyError
    assert not any(tmp_path.iterdir())


def test_a_folder_with_files_is_refused(tmp_path):
    (tmp_path / "x").touch()
    for path in (tmp_path, tmp_path / "x"):
        with (
            pytest.raises(UserError, match="exists and is not an empty folder"),
            new_folder(path),
        ):
            pytest.fail("the block runs")
    with pytest.raises(UserError, match="cannot write"), new_folder(tmp_path / "x" / "y"):
        pytest.fail("the block runs")
    assert [file.name for file in tmp_path.iterdir()] == ["x"]

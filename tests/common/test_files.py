import pytest

from research.common.errors import UserError
from research.common.files import check_is_writable, new_folder, read_lines, write_atomically


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


def test_a_failed_write_leaves_no_file(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*folder: Is a directory; choose another"):
        write_atomically(tmp_path / "folder", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    check_is_writable(tmp_path / "new" / "run")
    with pytest.raises(UserError, match=r"invalid folder .*run: .*file is a file; choose another"):
        check_is_writable(tmp_path / "file" / "run")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(UserError, match=f"cannot write .*run: permission denied in {tmp_path};"):
        check_is_writable(tmp_path / "new" / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_line_ends_at_a_newline_only(tmp_path):
    lines = ["a\u2028b", "c\x85d\x0ce", "", "f"]
    for newline in ("\n", "\r\n"):
        for end in ("", newline):
            text = "\ufeff" + newline.join(lines) + end
            (tmp_path / "a.txt").write_bytes(text.encode())
            assert read_lines(tmp_path / "a.txt") == lines
    (tmp_path / "a.txt").write_bytes(b"")
    assert read_lines(tmp_path / "a.txt") == []

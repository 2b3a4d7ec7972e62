"""Files are plain files of the folder that they are in: no link, no FIFO, no device, and not too large."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mcurl import files
from mcurl.errors import UserError


@pytest.mark.parametrize("mode", ["rb", "r+b", "ab", "a+b"])
def test_a_link_is_not_followed(tmp_path: Path, mode: str) -> None:
    other, link = tmp_path / "other", tmp_path / "link"
    other.write_text("mine")
    link.symlink_to(other)
    with pytest.raises(UserError, match="link is a link, not a plain file"):
        files.open_plain(link, mode)
    assert other.read_text() == "mine"


def test_a_link_may_be_followed_for_reading(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "other")
    assert files.read_text(tmp_path / "link", follow=True) == "mine"


def test_a_file_with_two_names_is_read_and_not_changed(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("mine")
    os.link(tmp_path / "other", tmp_path / "name")
    assert files.read_text(tmp_path / "name") == "mine"
    for mode in ("r+b", "ab"):
        with pytest.raises(UserError, match="hard link"):
            files.open_plain(tmp_path / "name", mode)


@pytest.mark.parametrize(("kind", "words"), [("fifo", "a FIFO"), ("folder", "a folder"), ("device", "a device")])
@pytest.mark.parametrize("mode", ["rb", "ab"])
def test_what_is_no_file_is_named_at_once(tmp_path: Path, kind: str, words: str, mode: str) -> None:
    path = tmp_path / kind
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path = Path("/dev/null")
    with pytest.raises(UserError, match=f"is {words}, not a plain file"):
        files.open_plain(path, mode)


def test_the_size_is_known_before_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "giant.json"
    path.touch()
    os.truncate(path, 2**40)  # takes no place on the disk
    with pytest.raises(UserError, match=r"has 1,099,511,627,776 bytes; at most 16,777,216 are read"):
        files.read_json(path)


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 500 + "]" * 500, '{"a":' * 300 + "1" + "}" * 300])
def test_deep_json_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "deep.json").write_text(text)
    with pytest.raises(UserError, match="nested more than 100 levels deep"):
        files.read_json(tmp_path / "deep.json")


def test_json_of_the_allowed_depth_is_read(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text("[" * 100 + "]" * 100)
    assert files.read_json(tmp_path / "deep.json") == files.parse_json("[" * 100 + "]" * 100, tmp_path)


def test_a_file_is_replaced_in_one_step_and_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    other, link = tmp_path / "other", tmp_path / "link"
    other.write_text("mine")
    link.symlink_to(other)
    (tmp_path / ".link.new").symlink_to(other)  # where a killed process left its draft
    files.write_file(link, "new")
    assert (other.read_text(), link.read_text(), link.is_symlink()) == ("mine", "new", False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "other"]


def test_a_new_file_replaces_nothing(tmp_path: Path) -> None:
    files.write_new(tmp_path / "a", "first")
    with pytest.raises(FileExistsError):
        files.write_new(tmp_path / "a", "second")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "first"


def test_lines_that_are_complete(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for text, lines in (("", []), ("a", []), ("a\n", ["a"]), ("a\nb", ["a"]), ("a\n\nb\n", ["a", "", "b"])):
        path.write_text(text)
        assert files.complete_lines(path.read_bytes(), path) == lines


def test_a_folder_of_its_own_is_not_made_in_one_that_is_gone(tmp_path: Path) -> None:
    assert files.own_folder(tmp_path / "run").is_dir()
    assert files.own_folder(tmp_path / "run").is_dir()
    with pytest.raises(FileNotFoundError):
        files.own_folder(tmp_path / "moved" / "results")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_linked_folders_are_found_and_not_searched(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch" / "run"
    (scratch / "below").mkdir(parents=True)
    for folder in (scratch, scratch / "below"):
        (folder / "run.json").touch()
    runs = tmp_path / "runs"
    (runs / "own").mkdir(parents=True)
    (runs / "own" / "run.json").touch()
    (runs / "linked").symlink_to(scratch)
    (runs / "own" / "round").symlink_to(runs)  # in circles
    (runs / "own" / "gone").symlink_to(tmp_path / "nowhere")
    assert files.find_folders(runs, "run.json") == [runs / "linked", runs / "own"]
    assert files.find_folders(runs / "linked", "run.json") == [runs / "linked", runs / "linked" / "below"]

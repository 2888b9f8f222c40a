"""Archives and folders read in place, outputs whole or not at all, names on one line."""

import os
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from conftest import archive, fails, tree, write

from posegan import files

LINK, HARD = tarfile.SYMTYPE, tarfile.LNKTYPE


def tar_of(path: Path, *members: tuple) -> Path:
    """A tar of members (name, bytes or a link's target, type)."""
    with tarfile.open(path, "w") as made:
        for name, content, kind in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if isinstance(content, str):
                info.linkname = content
                made.addfile(info)
            else:
                beside = write(path.with_name("content"), content)
                info.size = len(content)
                with open(beside, "rb") as file:
                    made.addfile(info, file)
                beside.unlink()
    return path


def contents(path: Path) -> dict[str, bytes]:
    source = files.Source(path)
    return dict(source.items(source.names))


# ------------------------------------------------------------------------------ archives


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_an_archive_has_the_names_and_bytes_of_its_folder(tmp_path, kind):
    given = {"a/1": b"1", "a/b/2": b"22", "3": b""}
    folder = tree(tmp_path / "in", given)
    assert contents(folder) == given
    packed = {f"in/{name}": data for name, data in given.items()}
    assert contents(archive(folder, kind)) == packed


def test_of_several_copies_the_last_one_counts_and_that_is_said(tmp_path, caplog):
    regular = tarfile.REGTYPE
    path = tar_of(
        tmp_path / "a.tar",
        *(
            (name, name.encode() + bytes([i]), regular)
            for i, name in enumerate(("a", "b", "a", "./a", "b"))
        ),
    )
    assert contents(path) == {"a": b"./a\3", "b": b"b\4"}
    assert "a.tar: 3 names occur more than once; the last file of each" in caplog.text
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made, pytest.warns(UserWarning, match="Dupl"):
        for data in (b"1", b"2"):
            made.writestr("a", data)
    assert contents(tmp_path / "a.zip") == {"a": b"2"}


def test_links_of_an_archive_have_their_targets_bytes(tmp_path):
    regular = tarfile.REGTYPE
    members = [
        ("x/early", "x/real", HARD),
        ("x/real", b"real", regular),
        ("x/hard", "x/real", HARD),
        ("x/soft", "real", LINK),
        ("y/soft", "../x/real", LINK),
        ("y/twice", "soft", LINK),
        ("y/nothing", "none", LINK),
        ("y/round", "and", LINK),
        ("y/and", "round", LINK),
        ("y/self", "self", LINK),
    ]
    source = files.Source(tar_of(tmp_path / "a.tar", *members))
    names = ["x/early", "x/hard", "x/real", "x/soft", "y/soft", "y/twice"]
    assert source.names == names and source.skipped == 4
    assert dict(source.items(names)) == dict.fromkeys(names, b"real")
    assert dict(source.items({"y/soft"})) == {"y/soft": b"real"}


def test_what_is_no_file_in_a_zip_is_skipped(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        made.writestr("x/real", b"real")
        for name, mode in (("x/soft", stat.S_IFLNK), ("x/pipe", stat.S_IFIFO)):
            info = zipfile.ZipInfo(name)
            info.external_attr = (mode | 0o644) << 16
            made.writestr(info, "real")
    source = files.Source(tmp_path / "a.zip")
    assert source.names == ["x/real"] and source.skipped == 2


def test_a_zip_with_the_slashes_of_windows_has_folders(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        made.writestr("al\\0.png", b"al")
        made.writestr("..\\..\\bo\\0.png", b"bo")
    assert files.Source(tmp_path / "a.zip").names == ["al/0.png", "bo/0.png"]


def test_names_of_an_archive_never_lead_out_of_it(tmp_path):
    regular = tarfile.REGTYPE
    names = ("/etc/a", "../../b", "c/../../d", "./e", "f//g", "//h", ".")
    path = tar_of(tmp_path / "a.tar", *((name, b"x", regular) for name in names[:-1]))
    assert files.Source(path).names == ["b", "d", "e", "etc/a", "f/g", "h"]


def test_special_files_are_skipped_and_counted_and_pipes_never_opened(tmp_path):
    folder = tree(tmp_path / "in", {"a": b"a"})
    os.mkfifo(folder / "pipe")
    (folder / "nothing").symlink_to("none")
    source = files.Source(folder)
    assert source.names == ["a"] and source.skipped == 2
    kinds = (tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE)
    members = [("a", b"a", tarfile.REGTYPE), *((str(i), b"", k) for i, k in enumerate(kinds))]
    source = files.Source(tar_of(tmp_path / "a.tar", *members))
    assert source.names == ["a"] and source.skipped == 3
    os.mkfifo(tmp_path / "pipe")
    with fails(r"pipe: can't be read \(not a file\); check the path"):
        files.Source(tmp_path / "pipe")


def test_linked_folders_are_followed_once_and_circles_end(tmp_path):
    folder = tree(tmp_path / "in", {"real/a": b"a"})
    tree(tmp_path / "else", {"b": b"b"})
    for name, target in (("aa", "real"), ("loop", "."), ("real/up", ".."), ("out", "../else")):
        (folder / name).symlink_to(target)
    (folder / "again").symlink_to("../else")
    (folder / "file").symlink_to("real/a")
    source = files.Source(folder)
    assert source.names == ["again/b", "file", "real/a"] and source.skipped == 4
    assert dict(source.items(source.names))["file"] == b"a"


def test_a_folder_that_may_not_be_opened_is_an_error(tmp_path, monkeypatch):
    folder = tree(tmp_path / "in", {"a/1": b"1", "b/2": b"2"})
    scan = os.scandir

    def forbidden(path):
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(files.os, "scandir", forbidden)
    with fails(
        r"in/b: can't be read.* \(Permission denied\); check the path, or download it again"
    ):
        files.Source(folder)


def test_a_damaged_archive_says_how_much_could_be_read(tmp_path):
    members = ((str(i), bytes(600), tarfile.REGTYPE) for i in range(9))  # each of 1536 bytes
    path = tar_of(tmp_path / "in.tar", *members)
    whole = path.read_bytes()
    path.write_bytes(whole[: 4 * 1536 + 700])
    with fails(r"in\.tar: can't be read after file 5 \(unexpected end of data\); check"):
        files.Source(path)
    path.write_bytes(whole[: 4 * 1536])
    with fails(r"after file 4 \(damaged or truncated: empty header\)"):
        files.Source(path)
    path.write_bytes(whole + whole)
    with fails(r"after file 9 \(more data after the end: several archives in one file\)"):
        files.Source(path)
    path.write_bytes(whole[:3072] + b"x" + whole[3073:])
    with fails(r"after file 2 \(damaged or truncated: bad checksum\)"):
        files.Source(path)


def test_a_file_too_large_for_a_picture_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LARGEST", 99)
    folder = tree(tmp_path / "in", {"a.png": bytes(100), "b.png": bytes(99)})
    monkeypatch.setattr(Path, "read_bytes", lambda path: b"" if path.name == "b.png" else 1 / 0)
    with fails(r"in/a\.png: 100 bytes, more than 99; remove it"):
        dict(files.Source(folder).items(["a.png", "b.png"]))
    assert dict(files.Source(folder).items(["b.png"])) == {"b.png": b""}


def test_what_unpacks_a_hundredfold_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    path = archive(tree(tmp_path / "in", {"a.png": bytes(10**6)}), "tar.gz")
    assert files.Source(path).names
    monkeypatch.setattr(files, "BOMB", (10**5, 100))
    with fails(r"a\.png: unpacks from [\d,]+ to [\d,]+ bytes, too much for a picture; remove it"):
        files.Source(path)


def test_a_tar_that_ends_like_a_zip_is_a_tar(tmp_path):
    inner = archive(tree(tmp_path / "in", {"a": b"a"}), "zip").read_bytes()
    path = tar_of(tmp_path / "a.tar", ("b.zip", inner, tarfile.REGTYPE))
    assert files.Source(path).names == ["b.zip"]


# ------------------------------------------------------------------------------ outputs


def test_an_output_is_whole_or_as_it_was(tmp_path):
    path = write(tmp_path / "file.txt", "old")
    with pytest.raises(KeyError), files.replaced(path, "--out") as beside:
        beside.write_text("half")
        raise KeyError
    assert path.read_text() == "old"
    with files.replaced(path, "--out") as beside:
        beside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_a_folder_takes_the_place_of_another_and_comes_back_where_it_cannot(tmp_path):
    tree(tmp_path / "out", {"a": "old"})
    with files.replaced(tmp_path / "out", "--root") as beside:
        tree(beside, {"b": "new"})
    assert os.listdir(tmp_path / "out") == ["b"]
    with fails("out: can't be written"), files.replaced(tmp_path / "out", "--root") as beside:
        tree(beside, {"c": "newer"})
        shutil.rmtree(beside)
    assert (tmp_path / "out/b").read_text() == "new"
    assert os.listdir(tmp_path) == ["out"]


def test_a_file_never_takes_the_place_of_a_folder(tmp_path):
    tree(tmp_path / "out", {"a": "a user's"})
    with fails("out: can't be written"), files.replaced(tmp_path / "out", "--json") as beside:
        beside.write_text("new")
    assert (tmp_path / "out/a").read_text() == "a user's"
    with fails("out: is a folder; choose another place with --json"):
        files.check_output(tmp_path / "out", "--json", True, {})


def test_what_comes_there_meanwhile_stays(tmp_path):
    path = tmp_path / "file"
    message = "file: has since been created; choose another with --json"
    with fails(message), files.replaced(path, "--json", overwrite=False) as beside:
        beside.write_text("ours")
        path.write_text("theirs")
    assert path.read_text() == "theirs"


def test_folders_made_for_an_output_go_if_nothing_comes_into_them(tmp_path):
    with pytest.raises(KeyError), files.replaced(tmp_path / "a/b/c", "--out"):
        raise KeyError
    assert not os.listdir(tmp_path)
    with files.replaced(tmp_path / "a/b/c", "--out") as beside:
        beside.write_text("c")
    assert (tmp_path / "a/b/c").read_text() == "c"


def test_outputs_have_the_permissions_of_any_new_file(tmp_path):
    write(tmp_path / "usual", "")
    (tmp_path / "folder").mkdir()
    with files.replaced(tmp_path / "file", "--out") as beside:
        beside.write_text("")
    with files.replaced(tmp_path / "ours", "--out") as beside:
        beside.mkdir()
    modes = {path.name: path.stat().st_mode for path in tmp_path.iterdir()}
    assert modes["usual"] == modes["file"] and modes["folder"] == modes["ours"]


def test_a_pipe_is_written_as_it_comes(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    files.check_output(tmp_path / "pipe", "--json", False, {})
    with files.replaced(tmp_path / "pipe", "--json", False) as beside:
        beside.write_text("now")
    assert os.read(reader, 9) == b"now"
    os.close(reader)


# ------------------------------------------------------------------------------ names


def test_a_name_is_one_line_without_control_characters():
    assert files.printable("plain é 人 name.png") == "plain é 人 name.png"
    assert files.printable("a\nb\x1b[31m\udcff\u202e") == r"a\nb\x1b[31m\udcff\u202e"

"""Files: printable names, archives read in place, outputs written whole or not at all."""

import contextlib
import logging
import os
import posixpath
import stat
import tarfile
import tempfile
import zipfile
from collections import deque
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from click import ClickException

log = logging.getLogger("posegan")

LARGEST = 2**28  # bytes of a file to read from an archive or folder: no picture has more
HUGE = 2**30  # bytes of a file given by name
BOMB = 2**26, 100  # bytes and compression ratio above which an archive is taken for a bomb
LONGEST = 4096  # characters of a name


class BadInput(ClickException):
    """An error the user can fix, in one line: file (and line), problem, remedy."""

    def __init__(self, file: object, problem: str, remedy: str):
        super().__init__(f"{file}: {problem}; {remedy}")


def printable(text: str) -> str:
    """Text on one line, with control characters escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def check_file(path: Path, limit: int = HUGE) -> None:
    """Raise if `path` is not a regular file: reading a pipe might never end."""
    problem = "" if path.is_file() else "not a file" if path.exists() else "no such file"
    if path.is_file() and path.stat().st_size > limit:
        problem = f"{path.stat().st_size:,} bytes, more than {limit:,}"
    if problem:
        raise BadInput(path, problem, "check the path")


# ------------------------------------------------------------------------------ archives


class Member(NamedTuple):
    """A file in an archive or folder; skipped if it has neither `read` nor `link`."""

    name: str
    size: int = 0
    read: Callable[[], bytes] | None = None
    link: str = ""  # the name of the member it links to


class Source:
    """A folder, or a zip or tar archive read in place: its `names`, sorted, and their bytes.

    The last of several members with one name counts; links read as their targets; members that
    are not files are counted in `skipped`. Raises ClickException if it is neither, or damaged.
    """

    def __init__(self, path: str | Path):
        self.path, self.skipped, copies = Path(path), 0, 0
        found: dict[str, int | str] = {}  # a member's place, or the name it links to
        for place, member, _ in self._walk():
            if not (member.link or member.read) or len(member.name) > LONGEST:
                self.skipped += 1
                continue
            copies += member.name in found
            found[member.name] = member.link or place
        self._places: dict[str, int] = {}
        for name, what in found.items():
            passed = set()
            while isinstance(what, str) and what not in passed:
                passed.add(what)
                what = found.get(what)
            if isinstance(what, int):
                self._places[name] = what
        self.names = sorted(self._places)
        self.skipped += len(found) - len(self.names)  # dangling or circular links
        if copies:
            word = "%s: %d names occur more than once; the last file of each name is used"
            log.warning(word, path, copies)

    def items(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Yield the wanted names and their bytes, in the order that reads fastest."""
        names: dict[int, list[str]] = {}
        for name in self.names:
            if name in wanted:
                names.setdefault(self._places[name], []).append(name)
        for place, _, data in self._walk(names):
            yield from ((name, data) for name in names.get(place, ()))

    def _walk(self, wanted: Collection[int] = ()) -> Iterator[tuple[int, Member, bytes | None]]:
        # All members with their places, from 1, and the bytes of those wanted.
        place = 0
        try:
            for place, member in enumerate(self._members(), 1):
                if place in wanted and member.size > LARGEST:
                    problem = f"{member.size:,} bytes, more than {LARGEST:,}"
                    raise BadInput(f"{self.path}/{member.name}", problem, "remove it")
                yield place, member, member.read() if place in wanted else None
        except ClickException:
            raise
        except Exception as error:  # the decoders raise whatever the bytes provoke
            if isinstance(error, RuntimeError) and self.path.is_file():
                # how zipfile reports a password or an unknown compression
                problem = "encrypted, or compressed by an unsupported method"
                remedy = "unpack it with the data set's password and give the folder"
                raise BadInput(self.path, problem, remedy) from None
            what = getattr(error, "filename", None) or self.path
            reason = getattr(error, "strerror", None) or error
            after = f" after file {place:,}" if place else ""
            remedy = "check the path, or download it again"
            raise BadInput(what, f"can't be read{after} ({reason})", remedy) from None

    def _members(self) -> Iterator[Member]:
        if self.path.is_dir():
            return self._of_folder()
        if not self.path.is_file():
            raise OSError("no such file or folder" if not self.path.exists() else "not a file")
        try:
            archive = tarfile.open(self.path, tarinfo=_Header)  # noqa: SIM115
        except tarfile.ReadError:
            if not zipfile.is_zipfile(self.path):
                raise OSError("neither a folder nor a complete zip or tar archive") from None
            return self._of_zip()
        return self._of_tar(archive)

    def _of_folder(self) -> Iterator[Member]:
        # Each folder once, under its own name rather than a link's.
        folders, passed = deque([self.path]), set()
        while folders:
            folder = folders.popleft()
            status = folder.stat()
            if (status.st_dev, status.st_ino) in passed:
                yield Member(folder.name)
                continue
            passed.add((status.st_dev, status.st_ino))
            for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
                path = Path(entry)
                if entry.is_dir():
                    (folders.append if entry.is_symlink() else folders.appendleft)(path)
                    continue
                read = path.read_bytes if entry.is_file() else None
                size = entry.stat().st_size if read else 0
                yield Member(path.relative_to(self.path).as_posix(), size, read)

    def _of_zip(self) -> Iterator[Member]:
        with zipfile.ZipFile(self.path) as archive:
            members = archive.infolist()
            if members and min(member.header_offset for member in members):
                raise zipfile.BadZipFile("several archives in one file, or the start is missing")
            for member in members:
                if member.is_dir():
                    continue
                self._check_size(member.filename, member.file_size, member.compress_size)
                regular = stat.S_IFMT(member.external_attr >> 16) in (0, stat.S_IFREG)
                read = partial(_unpack, archive, member) if regular else None
                name = member.filename.replace("\\", "/")  # from some Windows programs
                yield Member(_inside(name), member.file_size, read)

    def _of_tar(self, archive: tarfile.TarFile) -> Iterator[Member]:
        with archive:
            packed = self.path.stat().st_size
            for member in archive:
                if member.isdir():
                    continue
                self._check_size(member.name, max(member.size, member.offset_data), packed)
                link = member.linkname if member.islnk() or member.issym() else ""
                if member.issym():
                    link = posixpath.join(posixpath.dirname(member.name), link)
                read = archive.extractfile(member).read if member.isfile() else None
                yield Member(_inside(member.name), member.size, read, link and _inside(link))
            if any(archive.fileobj.read(2**20)) or archive.fileobj.read(1):
                raise tarfile.ReadError("more data after the end: several archives in one file")

    def _check_size(self, name: str, size: int, packed: int) -> None:
        if size > max(BOMB[0], BOMB[1] * packed):
            problem = f"unpacks from {packed:,} to {size:,} bytes, too much for a picture"
            raise BadInput(f"{self.path}/{name}", problem, "remove it")


class _Header(tarfile.TarInfo):
    """A header whose damage is an error; tarfile takes it for the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"damaged or truncated: {error}") from None


def _inside(name: str) -> str:
    # An archive's name as unpacked into an empty folder: never absolute, never above the folder.
    return posixpath.normpath("/" + name.lstrip("/"))[1:]


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    with archive.open(member) as file:
        return file.read(member.file_size)  # no more than declared, whatever it unpacks to


# ------------------------------------------------------------------------------ outputs


def check_output(
    path: Path, option: str, overwrite: bool, used: dict, folder: bool = False
) -> None:
    """Refuse an output, a file or a `folder`, that would destroy something, before any work.

    `used` maps the other files and folders that the command reads or writes to the suffixes it
    reads in a folder; `option` is the one to choose another place with.
    """
    place, problem = Path(os.path.realpath(path)), ""
    for other in filter(None, used):
        one = Path(os.path.realpath(other))
        same = place == one or (place.exists() and one.exists() and place.samefile(one))
        if same or (one in place.parents and place.suffix.lower() in used[other]):
            problem = f"would overwrite {other}" if same else f"would join the inputs in {other}"
    if all((place.parent / name).exists() for name in ("dataset.json", "images.npy")):
        problem = "lies in a prepared data set"
    sample = place.parent.name == "samples"
    runs = [place.parent] * (place.suffix in (".pt", ".jsonl")) + [place.parent.parent] * sample
    if any((run / name).exists() for run in runs for name in ("latest.pt", "log.jsonl")):
        problem = "belongs to a run"
    above = next(one for one in (place, *place.parents) if one.exists())
    if (above != place and not above.is_dir()) or not os.access(above, os.W_OK):
        problem = "can't be written"
    if place.is_dir() and not folder:
        problem = "is a folder"
    if path.is_relative_to("/dev") and place.is_file() and not place.is_relative_to("/dev"):
        problem = f"leads to {place}"
    if problem:
        raise BadInput(path, problem, f"choose another place with {option}")
    if not overwrite and (place.is_file() or place.is_dir()):
        raise BadInput(path, "already exists", "replace it with --overwrite")


@contextlib.contextmanager
def replaced(path: Path, option: str, overwrite: bool = True) -> Iterator[Path]:
    """Yields a temporary path next to `path`; what is written there replaces `path` at the end.

    Raises ClickException if that fails, or, without `overwrite`, if `path` exists by then.
    """
    place, made = Path(os.path.realpath(path)), []  # a link stays a link
    try:
        if place.exists() and not (place.is_file() or place.is_dir()):
            yield place  # a pipe is written directly
            return
        made = [one for one in place.parents if not one.exists()]
        place.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{place.name[:40]}.partial-"  # the limit on names is in bytes
        with tempfile.TemporaryDirectory("", prefix, place.parent, True) as folder:
            new, old = Path(folder, "new", path.name), Path(folder, "old")
            new.parent.mkdir()
            yield new
            if place.exists() and not overwrite:
                raise BadInput(path, "has since been created", f"choose another with {option}")
            try:
                if place.is_dir() and new.is_dir():
                    place.rename(old)
                os.replace(new, place)
            finally:
                if old.exists() and not place.exists():
                    old.rename(place)
    except OSError as error:
        problem = f"can't be written ({error.strerror or error})"
        raise BadInput(path, problem, f"choose another place with {option}") from None
    finally:
        for folder in made:  # only those still empty
            with contextlib.suppress(OSError):
                folder.rmdir()

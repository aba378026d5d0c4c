"""Memory that originals land in: what a reader finds there, who may use it again, and when it is empty."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imgproxy.cache.staging import AWAITED_S, Landing, Landings, enough_landings

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = mmap.PAGESIZE


@pytest.fixture
def three() -> Iterator[Landings]:
    """Three landings of four pages."""
    landings = Landings(3, 4 * PAGE)
    yield landings
    landings.close()


def land(landings: Landings, data: bytes, name: tuple[str, str]) -> Landing:
    """Take a landing and put these bytes into it, as a fetch does."""
    landing = landings.take()
    assert landing is not None
    landing.room(len(data))[: len(data)] = data
    landing.name = name
    landing.give_back()
    return landing


@pytest.mark.parametrize("size_bytes", [1, PAGE - 1, PAGE, PAGE + 1, 4 * PAGE])
def test_a_landing_is_a_file_of_its_picture_alone(three: Landings, size_bytes: int) -> None:
    """It ends where the picture ends, also after a longer one: a cut-off picture is not completed by another's bytes."""
    landing = three.take()
    assert landing is not None
    landing.room(4 * PAGE)[:] = b"x" * 4 * PAGE

    room = landing.room(size_bytes)
    room[:size_bytes] = b"y" * size_bytes

    assert Path(landing.path).read_bytes() == b"y" * size_bytes
    assert len(room) % PAGE == 0
    assert bytes(room[size_bytes:]).strip(b"\0") == b""
    landing.room(4 * PAGE)
    assert Path(landing.path).read_bytes() == b"y" * size_bytes + bytes(4 * PAGE - size_bytes)


def test_a_process_that_has_the_descriptor_reads_it_by_its_path(three: Landings) -> None:
    """The path means the same in a process that inherits the descriptors."""
    landing = land(three, b"picture", ("hash", "digest"))
    code = "import sys; sys.stdout.write(open(sys.argv[1]).read())"

    read = subprocess.run(
        [sys.executable, "-c", code, landing.path],
        pass_fds=three.descriptors,
        capture_output=True,
        text=True,
        check=True,
    )

    assert read.stdout == "picture"


def test_the_one_used_longest_ago_is_taken(three: Landings) -> None:
    """A picture stays until its memory is needed; to find it is to use it."""
    for name in "abc":
        land(three, name.encode(), (name, name))
    found = three.find("a", "a")
    assert found is not None
    found.give_back()

    land(three, b"d", ("d", "d"))

    assert three.find("b", "b") is None
    assert all(three.find(name, name) is not None for name in "acd")


def test_what_is_in_use_is_not_taken(three: Landings) -> None:
    """Not even as the only one left; it is again once everybody has given it back."""
    land(three, b"a", ("a", "a"))
    readers = [three.find("a", "a"), three.find("a", "a")]
    others = [three.take(), three.take()]
    assert None not in (*readers, *others)
    assert three.take() is None

    assert readers[0] is not None
    readers[0].give_back()
    assert three.take() is None
    readers[0].give_back()

    assert three.take() is readers[0]


def test_what_is_about_to_be_rendered_is_not_taken(three: Landings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that has just landed stays for its first render, unless that does not come."""
    fetched = [three.take() for _ in range(3)]
    for number, landing in enumerate(fetched):
        assert landing is not None
        three.keep(landing, str(number), "digest")
        landing.give_back()
    assert three.take() is None

    rendered = three.find("1", "digest")
    assert rendered is not None
    assert rendered is fetched[1]
    rendered.give_back()

    assert three.take() is rendered
    assert three.take() is None
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s + AWAITED_S)
    assert three.take() is fetched[0]


def test_only_the_very_picture_is_found(three: Landings) -> None:
    """Another digest under the same key is another picture."""
    land(three, b"a", ("a", "1"))

    assert three.find("a", "2") is None
    assert three.find("b", "1") is None


def test_a_purged_picture_leaves_the_memory(three: Landings) -> None:
    """At once where nobody reads it, else with its last reader; others stay."""
    gone, read, other = land(three, b"a1", ("a", "1")), land(three, b"a2", ("a", "2")), land(three, b"b", ("b", "1"))
    assert three.find("a", "2") is read

    three.forget("a")

    assert Path(gone.path).read_bytes() == b""
    assert Path(read.path).read_bytes() == b"a2"
    assert three.find("a", "2") is None
    assert three.find("b", "1") is other
    read.give_back()
    assert Path(read.path).read_bytes() == b""


def test_to_land_is_to_be_used(three: Landings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those whose render did not come, the one that landed first goes, whenever its fetch began."""
    fetched = [three.take() for _ in range(3)]
    for number in (1, 2, 0):
        landing = fetched[number]
        assert landing is not None
        three.keep(landing, str(number), "digest")
        landing.give_back()
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s + AWAITED_S)

    assert [three.take() for _ in range(3)] == [fetched[1], fetched[2], fetched[0]]


def test_a_purged_picture_is_waited_for_by_nobody(three: Landings) -> None:
    """Its memory is anybody's at once."""
    for _ in range(3):
        landing = three.take()
        assert landing is not None
        three.keep(landing, "a", "1")
        landing.give_back()

    three.forget("a")

    assert three.take() is not None


def test_who_has_the_descriptor_cannot_write(three: Landings) -> None:
    """A render process decodes foreign bytes: it cannot change a picture that another one reads."""
    landing = land(three, b"picture", ("hash", "digest"))

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(landing.descriptor, b"x")
    with pytest.raises(OSError, match="Invalid argument"):
        os.ftruncate(landing.descriptor, 0)
    assert os.fstat(landing.descriptor).st_mode & 0o222 == 0


def test_a_fetch_that_failed_leaves_nothing(three: Landings) -> None:
    """What was given no name is nobody's."""
    landing = three.take()
    assert landing is not None
    landing.room(3)[:3] = b"abc"

    landing.give_back()

    assert os.stat(landing.path).st_size == 0


def test_memory_that_somebody_holds_on_to_does_not_keep_the_rest_from_closing() -> None:
    """A thread may still write when the service stops."""
    landings = Landings(2, PAGE)
    landing = landings.take()
    assert landing is not None
    room = landing.room(3)
    descriptors = landings.descriptors

    landings.close()

    room[:3] = b"abc"
    landing.give_back()
    assert landings.take() is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        landing.room(3)
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


@pytest.mark.parametrize(("count", "size_bytes"), [(0, PAGE), (2, 0), (2, PAGE - 1)])
def test_there_may_be_none(count: int, size_bytes: int) -> None:
    """Then every original goes through the page cache."""
    landings = Landings(count, size_bytes)

    assert landings.descriptors == ()
    assert landings.take() is None
    assert landings.find("a", "a") is None
    landings.forget("a")


def test_a_system_without_such_memory_has_none(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where it is refused, the log says what that means."""

    def refuse(_name: str) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "memfd_create", refuse)

    assert Landings(2, PAGE).take() is None
    assert "through the page cache" in caplog.text


@pytest.mark.parametrize("name", ["ftruncate", "fchmod"])
def test_what_cannot_be_made_whole_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Not the first either, when it is the second that fails."""
    real, calls = getattr(os, name), []

    def refuse(*arguments: int) -> object:
        calls.append(arguments)
        if len(calls) > 2:
            raise OSError(28, "No space left on device")
        return real(*arguments)

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, name, refuse)

    assert Landings(5, PAGE).descriptors == ()

    assert len(os.listdir("/proc/self/fd")) == before


def test_each_process_has_one_to_read_and_one_to_come() -> None:
    """And there are a few for what is fetched and for what was rendered."""
    assert [enough_landings(processes) for processes in (1, 2, 16)] == [6, 8, 36]

"""The thread that writes the log: order, a full queue, a reader that stalls or is gone."""

import os
from collections.abc import Iterator

import pytest

from imgproxy.telemetry.log_writer import ENTRY_CHARS, LogWriter, queued_stream

LONG_S = 30.0
# More than a pipe holds, so the thread is held in its write until somebody reads.
STUFFING = "x" * 200_000 + "\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe: reader and writer."""
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def lost(count: int) -> str:
    return f"lost {count}\n"


def put(writer: LogWriter, line: str) -> None:
    writer.put(line, len(line))


def read(reader: int, last: str) -> str:
    """Read until the text ends with this."""
    text = ""
    while not text.endswith(last):
        text += os.read(reader, 65536).decode()
    return text


def test_lines_are_written_in_order_whether_they_are_made_now_or_later(pipe: tuple[int, int]) -> None:
    """A function in the queue is called by the thread."""
    writer = LogWriter(pipe[1], lost)
    for number in range(1000):
        put(writer, f"{number}\n")
    writer.put(lambda: "made\n", 5)
    put(writer, "end\n")

    assert read(pipe[0], "end\n") == "".join(f"{number}\n" for number in range(1000)) + "made\nend\n"
    assert writer.dropped == 0


def test_lines_that_do_not_fit_are_dropped_counted_and_told_of(pipe: tuple[int, int]) -> None:
    """While the reader stalls nothing waits; when it reads again, one line says how many are missing."""
    writer = LogWriter(pipe[1], lost, queue_max_chars=2 * (len("kept 1\n") + ENTRY_CHARS), gather_s=0)
    writer.put(STUFFING, 0)
    start = os.read(pipe[0], 1).decode()  # the thread is in its write, and the queue is empty
    for number in range(1, 6):
        put(writer, f"kept {number}\n")
    assert writer.dropped == 3
    assert not writer.flush(0)

    text = start + read(pipe[0], "lost 3\n")

    assert text == STUFFING + "kept 1\nkept 2\nlost 3\n"
    put(writer, "again\n")
    assert read(pipe[0], "again\n") == "again\n"


def test_a_reader_that_is_gone_costs_its_lines_and_nothing_else(pipe: tuple[int, int]) -> None:
    """They are counted; the thread goes on, and tells of them when somebody reads again."""
    reader, gone = os.pipe()
    os.close(reader)
    writer = LogWriter(gone, lost)
    put(writer, "one\n")
    put(writer, "two\n")
    assert writer.flush(LONG_S)
    assert writer.dropped == 2

    os.dup2(pipe[1], gone)
    put(writer, "three\n")
    assert read(pipe[0], "lost 2\n") == "three\nlost 2\n"
    os.close(gone)


def test_a_pipe_that_does_not_block_loses_nothing(pipe: tuple[int, int]) -> None:
    """Another process that has the same pipe can make it non-blocking. The thread waits for room."""
    os.set_blocking(pipe[1], False)
    writer = LogWriter(pipe[1], lost)
    put(writer, STUFFING)
    put(writer, "end\n")

    assert read(pipe[0], "end\n") == STUFFING + "end\n"
    assert writer.dropped == 0


def test_a_line_that_cannot_be_made_does_not_end_the_thread(pipe: tuple[int, int]) -> None:
    """It is counted as dropped."""
    writer = LogWriter(pipe[1], lost)
    writer.put(lambda: str(1 / 0), 1)
    assert writer.flush(LONG_S)
    put(writer, "next\n")

    assert read(pipe[0], "lost 1\n") == "next\nlost 1\n"


def test_what_is_written_to_standard_error_is_queued_as_it_is(pipe: tuple[int, int]) -> None:
    """Warnings and tracebacks of other threads come this way."""
    writer = LogWriter(pipe[1], lost)
    stream = queued_stream(writer)
    print("Grüße", 1, file=stream)

    assert read(pipe[0], "1\n") == "Grüße 1\n"
    assert stream.fileno() == pipe[1]
    assert not stream.isatty()

"""Tells what an error of FFmpeg means: a fault of the file, of the disk, or a lack of memory. Runs in the child process."""

from __future__ import annotations

import errno
import mmap
from collections.abc import Iterator
from contextlib import contextmanager

from m2raap.video.limits import Refused

_SPARE_BYTES = 512 * 1024**2  # where so much memory is left, FFmpeg's "out of memory" means a limit of its own


@contextmanager
def faults_of_the_file() -> Iterator[None]:
    """Raises Refused for an error while an open container is read, and MemoryError for a lack of memory."""
    import av.error

    try:
        yield
    except MemoryError as error:
        raise lack_of_memory(error) from None
    except av.error.FFmpegError as error:
        # Readers handle the errors that leave something to read. Any other one, whose class may also be that of a missing
        # permission or of a wrong argument, is a fault of the file, which alone FFmpeg was given.
        raise Refused("corrupt", f"FFmpeg cannot read the file ({error})") from None
    except OSError as error:
        raise unreadable(error) from None


def lack_of_memory(error: MemoryError) -> Exception:
    """What to raise for a MemoryError: FFmpeg also reports one where a table would be larger than it accepts."""
    if str(error).startswith(f"[Errno {errno.ENOMEM}]") and has_room(_SPARE_BYTES):
        return Refused("corrupt", "the file states more entries than FFmpeg accepts")
    return MemoryError(str(error))  # PyAV's own has fields that cannot be copied


def unreadable(error: OSError) -> Refused:
    return Refused("missing_file", f"the file cannot be read ({error.strerror or error})")


def has_room(num_bytes: int) -> bool:
    """Whether this process may use so much more memory. Only address space is taken, for a moment."""
    try:
        mmap.mmap(-1, num_bytes).close()
    except OSError:
        return False
    return True

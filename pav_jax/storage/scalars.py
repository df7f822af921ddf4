"""Scalars in TensorBoard event files, on a local disk or an object store."""

import logging
import math
import os
import struct
import time
from collections.abc import Iterator, Mapping
from typing import Any

from pav_jax.errors import BadInput
from pav_jax.storage.addresses import AnyPath, as_path, is_remote
from pav_jax.storage.files import write_atomic

log = logging.getLogger(__name__)

FILE = "events.out.tfevents.0000000000.pav"  # TensorBoard reads files whose names have "tfevents"
VERSION = "brain.Event:2"
UPLOAD_INTERVAL_S = 60.0  # an object store cannot append: the whole file is written again
HEADER_BYTES = 12  # length, its checksum
FOOTER_BYTES = 4  # checksum of the record


class ScalarLog:
    """One event file, to which scalars are added; a resumed run has no point twice.

    Format: TFRecords of `Event` messages, see tensorboardX/record_writer.py. A file that an earlier
    run was killed in is continued after its last whole record. If it cannot be read or written, a
    warning is logged once and the run goes on.

    Args:
      folder: of the file, local or in an object store; None: nothing is written.
    """

    def __init__(self, folder: str | os.PathLike | None):
        self._path = None if folder is None else as_path(folder) / FILE
        self._is_read = False
        self._points: set[tuple[str, int]] = set()  # (tag, step)
        self._data = bytearray()  # what the file should hold
        self._num_written = 0  # bytes of it that it holds
        self._uploaded_at = -math.inf

    def keep_until(self, last_step: int) -> None:
        """Remove the points after `last_step`, whose steps are run again."""
        if not self._is_open():
            return
        events = [e for e in read_events(bytes(self._data)) if e.step <= last_step]
        self._data = bytearray(b"".join(map(_encode, events)))
        self._points = {
            (value.tag, event.step) for event in events for value in event.summary.value
        }
        self._num_written = -1

    def add(self, step: int, values: Mapping[str, float | None]) -> None:
        """Add scalars; those that are unknown, not finite, or already there are left out."""
        if not self._is_open():
            return
        new = {
            tag: float(value)
            for tag, value in values.items()
            if value is not None and math.isfinite(value) and (tag, step) not in self._points
        }
        if new:
            self._points.update((tag, step) for tag in new)
            self._data += _encode(_event(step, new))

    def flush(self, is_last: bool = False) -> None:
        """Write what is new; to an object store at most once in UPLOAD_INTERVAL_S seconds.

        Args:
          is_last: write it now.
        """
        if self._path is None or self._num_written == len(self._data):
            return
        if is_remote(self._path) and not is_last:
            if time.monotonic() - self._uploaded_at < UPLOAD_INTERVAL_S:
                return
            self._uploaded_at = time.monotonic()
        try:
            self._write(self._path)
        except (OSError, BadInput) as error:
            self._give_up(error)

    def close(self) -> None:
        """Write everything."""
        self.flush(is_last=True)

    def _is_open(self) -> bool:
        """Whether scalars are written; the first call reads the file."""
        if self._path is None or self._is_read:
            return self._path is not None
        try:
            data = self._path.read_bytes() if self._path.exists() else b""
        except (OSError, BadInput) as error:  # written anew, it would lose what is there
            self._give_up(error)
            return False
        self._is_read = True
        events = list(read_events(data))
        self._data = bytearray(b"".join(map(_encode, events)) or _encode(_first_event()))
        self._num_written = len(data) if self._data == data else -1
        self._points = {
            (value.tag, event.step) for event in events for value in event.summary.value
        }
        return True

    def _give_up(self, error: Exception) -> None:
        log.warning("no more scalars for TensorBoard (%s)", error)
        self._path = None

    def _write(self, path: AnyPath) -> None:
        if self._num_written < 0 or is_remote(path) or not path.exists():
            write_atomic(path, bytes(self._data))
        else:
            with open(path, "ab") as file:
                file.write(self._data[self._num_written :])
        self._num_written = len(self._data)


def read_events(data: bytes) -> Iterator[Any]:
    """The `Event` messages of an event file, up to the first record that is cut off or corrupt."""
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboardX.record_writer import masked_crc32c

    position = 0
    while position + HEADER_BYTES + FOOTER_BYTES <= len(data):
        header = data[position : position + HEADER_BYTES]
        (length,) = struct.unpack("<Q", header[:8])
        start = position + HEADER_BYTES
        record = data[start : start + length]
        footer = data[start + length : start + length + FOOTER_BYTES]
        checksums = (
            struct.pack("<I", masked_crc32c(header[:8])),
            struct.pack("<I", masked_crc32c(record)),
        )
        if (header[8:], footer) != checksums:
            return
        yield Event.FromString(record)
        position = start + length + FOOTER_BYTES


def _encode(event: Any) -> bytes:
    """An `Event` as a TFRecord."""
    from tensorboardX.record_writer import masked_crc32c

    record = event.SerializeToString()
    length = struct.pack("<Q", len(record))
    checksums = [struct.pack("<I", masked_crc32c(part)) for part in (length, record)]
    return length + checksums[0] + record + checksums[1]


def _first_event() -> Any:
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

    return Event(wall_time=time.time(), file_version=VERSION)


def _event(step: int, values: Mapping[str, float]) -> Any:
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboardX.proto.summary_pb2 import (
        Summary,  # pyright: ignore[reportAttributeAccessIssue]
    )

    summary = Summary(value=[Summary.Value(tag=t, simple_value=v) for t, v in values.items()])
    return Event(wall_time=time.time(), step=step, summary=summary)

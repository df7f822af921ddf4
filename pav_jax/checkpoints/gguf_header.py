"""Checks the header of a GGUF file: that no count in it is larger than the file can hold.

The package `gguf` believes the counts, and a few wrong bytes then take all memory. Layout: the GGUF
specification (ggml-org/ggml, docs/gguf.md), version 2 and 3, little-endian.
"""

import struct
from pathlib import Path
from typing import BinaryIO

MAGIC = b"GGUF"
VERSIONS = (2, 3)
STRING = 8
ARRAY = 9
SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
MAX_ENTRIES = 4_000_000  # of an array; the reader takes time for each. Vocabularies have 10^5
MAX_FIELDS = 100_000
MAX_DIMENSIONS = 4  # of ggml


class CutOff(ValueError):
    """Raised when a file ends within its header."""


def check_header(path: Path) -> None:
    """Walk through metadata and tensor descriptions without keeping them.

    Raises:
      CutOff: the file ends within its header.
      ValueError: it is of another format, or a count is impossible.
    """
    with path.open("rb") as file:
        header = _Header(file, path.stat().st_size)
        if header.read(4) != MAGIC:
            raise ValueError("it does not begin with GGUF")
        version = header.integer(4)
        if version not in VERSIONS:
            raise ValueError(f"version is {version}; 2 and 3 are supported")
        tensors = header.integer(8)
        fields = header.integer(8)
        if tensors > MAX_FIELDS or fields > MAX_FIELDS:
            raise ValueError(f"it claims {tensors} tensors and {fields} fields")
        for _ in range(fields):
            header.skip_string()
            header.skip_value(header.integer(4))
        for _ in range(tensors):
            header.skip_tensor()


def holds_header(path: Path) -> bool:
    """Whether a file, which may be the beginning of another, does not end within its header."""
    try:
        check_header(path)
    except CutOff:
        return False
    except ValueError:
        return True
    return True


class _Header:
    def __init__(self, file: BinaryIO, size: int):
        self._file = file
        self._left = size

    def read(self, count: int) -> bytes:
        self._take(count)
        return self._file.read(count)

    def integer(self, count: int) -> int:
        return struct.unpack({4: "<I", 8: "<Q"}[count], self.read(count))[0]

    def skip_string(self) -> None:
        self._skip(self.integer(8))

    def skip_value(self, kind: int) -> None:
        if kind == STRING:
            self.skip_string()
        elif kind == ARRAY:
            self._skip_array()
        elif kind in SCALAR_BYTES:
            self._skip(SCALAR_BYTES[kind])
        else:
            raise ValueError(f"a field has the unknown type {kind}")

    def skip_tensor(self) -> None:
        self.skip_string()
        dimensions = self.integer(4)
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise ValueError(f"a tensor has {dimensions} dimensions")
        self._skip(8 * dimensions + 4 + 8)  # sizes, type, offset

    def _skip_array(self) -> None:
        kind = self.integer(4)
        count = self.integer(8)
        if count > MAX_ENTRIES:
            raise ValueError(f"an array claims {count} entries; at most {MAX_ENTRIES} are read")
        if kind in SCALAR_BYTES:
            self._skip(count * SCALAR_BYTES[kind])
        elif kind == STRING:
            for _ in range(count):
                self.skip_string()
        else:
            raise ValueError(f"an array has entries of the unsupported type {kind}")

    def _skip(self, count: int) -> None:
        self._take(count)
        self._file.seek(count, 1)

    def _take(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise CutOff("it is cut off")

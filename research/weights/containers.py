"""The two formats of `torch.save`: where they store the pickle and the storages.

Zip (since PyTorch 1.6): the records `NAME/data.pkl`, `NAME/byteorder` and one `NAME/data/KEY` for
each storage, all uncompressed. Legacy: five pickles (magic number, protocol, system, object, keys
of the storages), then each storage after its length.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any, NamedTuple

from research.weights.unpickle import unpickle
from research.weights.views import FUNCTIONS, Storage, persistent_load

ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = b"\x80"  # of protocol 2 and later
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_MAX_PICKLE_BYTES = 2**26


class Extent(NamedTuple):
    """The bytes of a storage in the file."""

    offset: int
    length: int
    crc: int | None  # CRC-32 checksum, None if the format has none


class Contents(NamedTuple):
    """The parts of a file."""

    value: Any  # of the pickle, with a `View` for each tensor
    extents: Mapping[str, Extent]  # by the key of the storage
    byteorder: str  # "little" or "big"


def read_zip(path: Path) -> Contents:
    """Reads the pickle of a file in the zip format and locates its storages.

    Raises:
      UnpicklingError: the file is not a state_dict, or a record is compressed.
      Exception: of `zipfile` or `struct`, if the file is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        records = {record.filename: record for record in archive.infolist()}
        if len(records) < len(archive.infolist()):
            raise UnpicklingError("its archive contains a name twice")
        pickles = [name for name in records if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise UnpicklingError("its archive contains no data.pkl of torch.save")
        folder = pickles[0].removesuffix("data.pkl")
        used = {name: one for name, one in records.items() if name.startswith(f"{folder}data")}
        _check_records(used.values())
        if records[pickles[0]].file_size > _MAX_PICKLE_BYTES:
            raise UnpicklingError(f"its pickle has more than {_MAX_PICKLE_BYTES:,} bytes")
        value = unpickle(io.BytesIO(archive.read(pickles[0])), FUNCTIONS, persistent_load)
        byteorder = "little"
        if f"{folder}byteorder" in records:
            with archive.open(f"{folder}byteorder") as record:
                byteorder = record.read(8).decode()
        if byteorder not in ("little", "big"):
            raise UnpicklingError("its byte order is unknown")
    with path.open("rb") as file:
        extents = {
            name.removeprefix(f"{folder}data/"): _locate_record(file, record)
            for name, record in used.items()
        }
    return Contents(value, extents, byteorder)


def read_legacy(path: Path) -> Contents:
    """Reads the pickles of a file in the legacy format and locates its storages.

    Raises:
      UnpicklingError: the file is damaged or not a state_dict.
    """
    storages: dict[str, Storage] = {}

    def load(identifier: Any) -> Storage:
        storage = persistent_load(identifier)
        return storages.setdefault(storage.key, storage)

    with path.open("rb") as file:
        stream = io.BytesIO(file.read(min(_MAX_PICKLE_BYTES, path.stat().st_size)))
        magic, protocol, _system = (unpickle(stream, {}, load) for _ in range(3))
        if (magic, protocol) != (_LEGACY_MAGIC, _LEGACY_PROTOCOL):
            raise UnpicklingError("it is a pickle that torch.save has not written")
        value = unpickle(stream, FUNCTIONS, load)
        keys = unpickle(stream, {}, load)
        if not isinstance(keys, list) or sorted(map(repr, keys)) != sorted(map(repr, storages)):
            raise UnpicklingError("its list of storages contradicts its tensors")
        offset, extents = stream.tell(), {}
        for key in keys:
            file.seek(offset)
            length, size = int.from_bytes(file.read(8), "little"), storages[key].nbytes
            if length != storages[key].length:
                raise UnpicklingError(f"its storage {key[:100]} is truncated")
            extents[key] = Extent(offset + 8, size, None)
            offset += 8 + size
    # Data of this format are little-endian on every machine.
    return Contents(value, extents, "little")


def read_extent(path: Path, extent: Extent) -> bytes:
    """Reads the bytes of a storage.

    Raises:
      UnpicklingError: the bytes have changed since they were written.
    """
    with path.open("rb") as file:
        file.seek(extent.offset)
        data = file.read(extent.length)
    if len(data) < extent.length:
        raise UnpicklingError("it is truncated")
    if extent.crc is not None and zlib.crc32(data) != extent.crc:
        raise UnpicklingError("the checksum of a storage is wrong")
    return data


def _check_records(records: Iterable[zipfile.ZipInfo]) -> None:
    """Checks that records take no more memory than space in the file, as those of torch.save."""
    for record in records:
        if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
            raise UnpicklingError(f"its record {record.filename[:100]} is compressed")


def _locate_record(file: IO[bytes], record: zipfile.ZipInfo) -> Extent:
    """Returns the data of an uncompressed record, which follow its header, name and padding."""
    file.seek(record.header_offset)
    magic, name_length, padding = struct.unpack("<4s22xHH", file.read(30))
    if magic != ZIP_MAGIC:
        raise UnpicklingError(f"its record {record.filename[:100]} is damaged")
    offset = record.header_offset + 30 + name_length + padding
    return Extent(offset, record.file_size, record.CRC)

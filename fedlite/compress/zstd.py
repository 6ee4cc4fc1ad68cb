"""Zstandard (RFC 8878) as a compressor slot: one frame whose size is checked before memory is taken."""

from dataclasses import dataclass
from typing import ClassVar

import zstandard

from fedlite.compress.planes import Planes, size_of
from fedlite.errors import CodecError, SettingsError


@dataclass(frozen=True)
class Zstd:
    """Compressor: `level` 1 to 19; higher is smaller and slower to encode, decoding does not change."""

    level: int = 3
    key: ClassVar[str] = "zstd"
    looks_inside: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not (isinstance(self.level, int) and 1 <= self.level <= 19):
            raise SettingsError(f"zstd level {self.level} is no whole number in 1..19")

    def bound(self, planes: Planes) -> int:
        """The most bytes `compress` writes for these (ZSTD_COMPRESSBOUND)."""
        size = size_of(planes)
        return size + (size >> 8) + (((128 << 10) - size) >> 11 if size < 128 << 10 else 0)

    def compress(self, data: bytes, planes: Planes = ()) -> bytes:
        """One frame with its content size, without checksum and dictionary."""
        return zstandard.ZstdCompressor(self.level, write_checksum=False).compress(data)

    def decompress(self, data: bytes, planes: Planes) -> bytes:
        """The content of exactly one frame, at most as large as the planes; CodecError otherwise."""
        limit = size_of(planes)
        try:
            frame = zstandard.get_frame_parameters(data)
            if frame.content_size > limit:
                raise CodecError(f"payload claims {frame.content_size} bytes, at most {limit} expected")
            if frame.dict_id or frame.has_checksum or data[:4] != zstandard.FRAME_HEADER:
                raise CodecError("payload is not a plain zstd frame")
            if frame.content_size == 0 and data != self.compress(b""):  # the library looks no further then
                raise CodecError("payload holds bytes after an empty zstd frame")
            return zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise CodecError(f"payload is not a zstd frame of at most {limit} bytes: {error}") from None

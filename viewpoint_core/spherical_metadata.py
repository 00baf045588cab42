"""Marks files as 360-degree: spherical video metadata V1 and V2 in MP4 and MOV, GPano XMP in JPEG and PNG.

V1 is an XML text in a uuid box of the video track, V2 are the boxes st3d and sv3d in its sample entries (Google's
"Spherical Video RFC" and "Spherical Video V2 RFC"). Boxes are those of ISO/IEC 14496-12: 32-bit size, type, payload.
"""

import io
import struct
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

from .replacing import replacing

SOFTWARE = "ViewPoint 360"
V1_UUID = uuid.UUID("ffcc8263-f855-4a93-8814-587a02521fdd").bytes
V1_XML = f"""<?xml version="1.0"?>
<rdf:SphericalVideo xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"
 xmlns:GSpherical="http://ns.google.com/videos/1.0/spherical/">
<GSpherical:Spherical>true</GSpherical:Spherical>
<GSpherical:Stitched>true</GSpherical:Stitched>
<GSpherical:StitchingSoftware>{SOFTWARE}</GSpherical:StitchingSoftware>
<GSpherical:ProjectionType>equirectangular</GSpherical:ProjectionType>
<GSpherical:StereoMode>mono</GSpherical:StereoMode>
</rdf:SphericalVideo>
"""
XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:GPano="http://ns.google.com/photos/1.0/panorama/" {tags}/>
</rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""
XMP_IN_JPEG = b"http://ns.adobe.com/xap/1.0/\0"
XMP_IN_PNG = b"XML:com.adobe.xmp\0"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

SAMPLE_TABLE = (b"mdia", b"minf", b"stbl")
SAMPLE_ENTRY_FIELDS = 78  # of a video's sample entry, before its boxes
OFFSETS_OUTSIDE_MOOV = {b"moof", b"meta"}
MAX_32 = 2**32 - 1
CHUNK = 1 << 24


class Box(NamedTuple):
    """A box in memory."""

    kind: bytes
    payload: bytes


class Span(NamedTuple):
    """A box of a file's top level: its bytes are start to end, header included."""

    kind: bytes
    start: int
    end: int


# Boxes


def read_span(stream: BinaryIO, start: int, limit: int) -> Span:
    """The box that starts there. Size 1 stands for a 64-bit size after the type, 0 for "to the end"."""
    stream.seek(start)
    header = stream.read(16)
    if len(header) < 8:
        raise ValueError(f"{limit - start} bytes where a box was expected")
    size, kind = struct.unpack_from(">I4s", header)
    least = 8
    if size == 1 and len(header) == 16:
        size, least = struct.unpack_from(">Q", header, 8)[0], 16
    elif size == 0:
        size = limit - start
    if size < least or start + size > limit:
        raise ValueError(f"at byte {start} a box {kind!r} of {size} bytes, with {limit - start} bytes left")
    return Span(kind, start, start + size)


def read_spans(stream: BinaryIO) -> list[Span]:
    """The boxes of a file's top level, in order."""
    limit = stream.seek(0, io.SEEK_END)
    spans: list[Span] = []
    while not spans or spans[-1].end < limit:
        spans.append(read_span(stream, spans[-1].end if spans else 0, limit))
    return spans


def split_boxes(data: bytes) -> tuple[list[Box], bytes]:
    """The boxes that fill a payload, and the up to 7 bytes after them (QuickTime ends some lists with zeros)."""
    boxes, start, stream = [], 0, io.BytesIO(data)
    while len(data) - start >= 8:
        span = read_span(stream, start, len(data))
        header = 16 if data[start : start + 4] == b"\0\0\0\1" else 8
        boxes.append(Box(span.kind, data[start + header : span.end]))
        start = span.end
    return boxes, data[start:]


def box(kind: bytes, *parts: bytes) -> bytes:
    """A box's bytes."""
    payload = b"".join(parts)
    return struct.pack(">I4s", 8 + len(payload), kind) + payload


def edit(payload: bytes, path: tuple[bytes, ...], change: Callable[[bytes], bytes]) -> bytes:
    """A payload with `change` applied to the payload of every box at that path."""
    if not path:
        return change(payload)
    boxes, tail = split_boxes(payload)
    parts = [box(b.kind, edit(b.payload, path[1:], change) if b.kind == path[0] else b.payload) for b in boxes]
    return b"".join([*parts, tail])


def find(payload: bytes, path: tuple[bytes, ...]) -> list[bytes]:
    """Payloads of all boxes at a path."""
    if not path:
        return [payload]
    children = [child.payload for child in split_boxes(payload)[0] if child.kind == path[0]]
    return [found for child in children for found in find(child, path[1:])]


def with_boxes(payload: bytes, new: bytes, is_old: Callable[[Box], bool]) -> bytes:
    """A list of boxes without the old ones and with new ones at its end."""
    boxes, tail = split_boxes(payload)
    return b"".join([*(box(*child) for child in boxes if not is_old(child)), new, tail])


# Spherical video


def v1_box() -> bytes:
    """The uuid box of a mono equirectangular video."""
    return box(b"uuid", V1_UUID, V1_XML.encode())


def v2_boxes() -> bytes:
    """The boxes st3d (mono) and sv3d (equirectangular, not turned, the whole sphere)."""
    version = bytes(4)
    head = box(b"svhd", version, SOFTWARE.encode() + b"\0")
    pose = box(b"prhd", version, struct.pack(">3i", 0, 0, 0))
    bounds = box(b"equi", version, struct.pack(">4I", 0, 0, 0, 0))
    return box(b"st3d", version, b"\0") + box(b"sv3d", head, box(b"proj", pose, bounds))


def mark_sample_entries(stsd: bytes) -> bytes:
    """A sample description with V2 boxes in each of its entries, in place of those that are there."""
    entries, tail = split_boxes(stsd[8:])
    marked = []
    for kind, payload in entries:
        fields, children = payload[:SAMPLE_ENTRY_FIELDS], payload[SAMPLE_ENTRY_FIELDS:]
        marked.append(box(kind, fields, with_boxes(children, v2_boxes(), lambda old: old.kind in (b"st3d", b"sv3d"))))
    return b"".join([stsd[:8], *marked, tail])


def is_video(trak: bytes) -> bool:
    """Whether a track's handler is the one of video."""
    return any(handler[8:12] == b"vide" for handler in find(trak, (b"mdia", b"hdlr")))


def mark_track(trak: bytes) -> bytes:
    """A track with V1 and V2 metadata if it is video, else as it is."""
    if not is_video(trak):
        return trak
    trak = edit(trak, (*SAMPLE_TABLE, b"stsd"), mark_sample_entries)
    return with_boxes(trak, v1_box(), lambda old: old.kind == b"uuid" and old.payload.startswith(V1_UUID))


def mark_movie(moov: bytes) -> bytes:
    """The payload of a moov with metadata on its one video track. Raises ValueError for another number of them."""
    if find(moov, (b"mvex",)):
        raise ValueError("fragments")
    videos = sum(map(is_video, find(moov, (b"trak",))))
    if videos != 1:
        raise ValueError(f"{videos} video tracks (expected one)")
    return edit(moov, (b"trak",), mark_track)


# The new file's layout


def widen_offsets(stbl: bytes) -> bytes:
    """A sample table whose chunk offsets have 64 bits: stco becomes co64."""
    boxes, tail = split_boxes(stbl)
    parts = []
    for kind, payload in boxes:
        if kind == b"stco":
            offsets = struct.unpack_from(f">{(len(payload) - 8) // 4}I", payload, 8)
            kind, payload = b"co64", payload[:8] + struct.pack(f">{len(offsets)}Q", *offsets)
        parts.append(box(kind, payload))
    return b"".join([*parts, tail])


def move_offsets(table: bytes, letter: str, moved: Callable[[int], int]) -> bytes:
    """A chunk offset table (stco: letter I, co64: Q) with each offset moved."""
    count = (len(table) - 8) // struct.calcsize(letter)
    offsets = struct.unpack_from(f">{count}{letter}", table, 8)
    return table[:8] + struct.pack(f">{count}{letter}", *map(moved, offsets))


def lay_out(spans: list[Span], moov: bytes) -> tuple[bytes, list[Span]]:
    """The moov box, offsets right, of the new file, and the old file's boxes that follow it.

    The order is ftyp, moov, the rest: players and ComfyUI's workflow loader then find the moov at the file's start.
    """
    rest = [span for span in spans if span.kind not in (b"ftyp", b"moov")]
    head = sum(span.end - span.start for span in spans if span.kind == b"ftyp")
    tables = (b"trak", *SAMPLE_TABLE)
    if head + 8 + len(moov) + sum(span.end - span.start for span in rest) > MAX_32:
        moov = edit(moov, tables, widen_offsets)
    starts, start = {}, head + 8 + len(moov)
    for span in rest:
        starts[span] = start
        start += span.end - span.start

    def moved(offset: int) -> int:
        for span in rest:
            if span.start <= offset < span.end:
                return offset - span.start + starts[span]
        raise ValueError(f"a chunk at byte {offset}, where no data is")

    for kind, letter in ((b"stco", "I"), (b"co64", "Q")):
        moov = edit(moov, (*tables, kind), lambda table, letter=letter: move_offsets(table, letter, moved))
    return box(b"moov", moov), rest


def copy_span(source: BinaryIO, target: BinaryIO, span: Span) -> None:
    """Copy a box's bytes, a chunk at a time."""
    source.seek(span.start)
    left = span.end - span.start
    while left:
        data = source.read(min(CHUNK, left))
        if not data:
            raise ValueError(f"box {span.kind!r} that ends early")
        target.write(data)
        left -= len(data)


def write_marked(source: BinaryIO, target: BinaryIO) -> None:
    """The marked file, from one open file to another. Raises ValueError, in words that follow "the file has"."""
    spans = read_spans(source)
    kinds = [span.kind for span in spans]
    if kinds.count(b"moov") != 1:
        raise ValueError(f"{kinds.count(b'moov')} movie headers (moov; expected one)")
    if OFFSETS_OUTSIDE_MOOV & set(kinds):
        raise ValueError("fragments, or items of its own")
    source.seek(spans[kinds.index(b"moov")].start)
    moov = source.read(spans[kinds.index(b"moov")].end - source.tell())
    header, rest = lay_out(spans, mark_movie(split_boxes(moov)[0][0].payload))
    for span in spans:
        if span.kind == b"ftyp":
            copy_span(source, target, span)
    target.write(header)
    for span in rest:
        copy_span(source, target, span)


def add_spherical_metadata(source: Path, target: Path) -> None:
    """Write the MP4 or MOV `source` to `target`, marked as a mono equirectangular 360-degree video, V1 and V2.

    Samples are copied as they are; metadata already there is replaced; the movie header comes first. `target` is
    written under a temporary name and renamed, and may be `source`. Only the movie header is held in memory. Raises
    ValueError for what is no MP4 or MOV, is cut off, is fragmented, or has not exactly one video track.
    """
    with replacing(target) as partial:  # outermost: Windows renames no file over one that is open
        try:
            with source.open("rb") as stream, partial.open("wb") as out:
                write_marked(stream, out)
        except (ValueError, struct.error) as error:
            raise ValueError(
                f"{source}: expected a whole, unfragmented MP4 or MOV with one video track; the file has {error}"
            ) from error


# GPano XMP


def gpano_xmp(width: int, height: int) -> bytes:
    """The XMP packet of a whole equirectangular panorama of that size in pixels."""
    tags = {
        "ProjectionType": "equirectangular",
        "UsePanoramaViewer": "True",
        "StitchingSoftware": SOFTWARE,
        "FullPanoWidthPixels": width,
        "FullPanoHeightPixels": height,
        "CroppedAreaImageWidthPixels": width,
        "CroppedAreaImageHeightPixels": height,
        "CroppedAreaLeftPixels": 0,
        "CroppedAreaTopPixels": 0,
    }
    return XMP.format(tags=" ".join(f'GPano:{name}="{value}"' for name, value in tags.items())).encode()


def check_part(start: int, least: int, end: int, limit: int) -> None:
    """Raise ValueError unless a part of an image file has at least its own fields and ends within the file."""
    if not start + least <= end <= limit:
        raise ValueError(f"the image file is damaged: its part at byte {start} goes to {end}, the file to {limit}")


def jpeg_with_xmp(jpeg: bytes, xmp: bytes) -> bytes:
    """A JPEG file with this XMP packet, in place of one that it has. Raises ValueError for what is no JPEG."""
    if jpeg[:2] != b"\xff\xd8":
        raise ValueError(f"expected a JPEG file, got bytes that start with {jpeg[:4]!r}")
    kept, start = [], 2
    while jpeg[start : start + 2] in (b"\xff\xe0", b"\xff\xe1"):  # APP0: JFIF; APP1: Exif or XMP
        end = start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big")
        check_part(start, 4, end, len(jpeg))
        if not jpeg.startswith(XMP_IN_JPEG, start + 4):
            kept.append(jpeg[start:end])
        start = end
    segment = XMP_IN_JPEG + xmp
    if len(segment) + 2 > 0xFFFF:
        raise ValueError(f"the XMP packet has {len(xmp)} bytes; a JPEG takes at most {0xFFFD - len(XMP_IN_JPEG)}")
    return b"".join([jpeg[:2], *kept, b"\xff\xe1", struct.pack(">H", len(segment) + 2), segment, jpeg[start:]])


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG chunk's bytes."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with_xmp(png: bytes, xmp: bytes) -> bytes:
    """A PNG file with this XMP packet, in place of one that it has. Raises ValueError for what is no PNG."""
    if not png.startswith(PNG_SIGNATURE):
        raise ValueError(f"expected a PNG file, got bytes that start with {png[:8]!r}")
    kept, start = [], len(PNG_SIGNATURE)
    while start < len(png):
        end = start + 12 + int.from_bytes(png[start : start + 4], "big")
        check_part(start, 12, end, len(png))
        if not png.startswith(b"iTXt" + XMP_IN_PNG, start + 4):
            kept.append(memoryview(png)[start:end])
        start = end
    text = png_chunk(b"iTXt", XMP_IN_PNG + b"\0\0\0\0" + xmp)  # not compressed, no language, no translated name
    return b"".join([PNG_SIGNATURE, *kept[:1], text, *kept[1:]])

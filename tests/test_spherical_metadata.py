"""The 360-degree marks in files, read by a parser of the tests' own, and by ffprobe and exiftool where installed."""

import io
import json
import shutil
import struct
import subprocess
import tracemalloc
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from viewpoint_core import spherical_metadata
from viewpoint_core.spherical_metadata import (
    Span,
    add_spherical_metadata,
    gpano_xmp,
    jpeg_with_xmp,
    lay_out,
    png_with_xmp,
)

needs_ffprobe = pytest.mark.skipif(not shutil.which("ffprobe"), reason="ffprobe is not installed (package ffmpeg)")
needs_exiftool = pytest.mark.skipif(
    not shutil.which("exiftool"), reason="exiftool is not installed (package libimage-exiftool-perl)"
)
V1_UUID = bytes.fromhex("ffcc8263f8554a938814587a02521fdd")
CONTAINERS = {"moov", "trak", "mdia", "minf", "stbl", "sv3d", "proj"}
FIELDS_BEFORE_BOXES = {"stsd": 8, "avc1": 78, "hvc1": 78}
GSPHERICAL = "{http://ns.google.com/videos/1.0/spherical/}"
GPANO = "{http://ns.google.com/photos/1.0/panorama/}"


# A second reader and a writer of boxes


def walk(data: bytes, start: int, end: int, path: str = "") -> Iterator[tuple[str, int, int]]:
    """Every box of a file as (path of types, first byte and end of its payload); sizes of all kinds."""
    while start < end and data[start:end] != bytes(4):
        size, header = int.from_bytes(data[start : start + 4], "big"), 8
        kind = data[start + 4 : start + 8].decode("latin-1")
        if size == 1:
            size, header = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        size = size or end - start
        assert header <= size <= end - start, f"{path}/{kind} at {start} has size {size}"
        yield f"{path}/{kind}", start + header, start + size
        inner = start + header + FIELDS_BEFORE_BOXES.get(kind, 0)
        if kind in CONTAINERS or kind in FIELDS_BEFORE_BOXES:
            yield from walk(data, inner, start + size, f"{path}/{kind}")
        start += size


def payloads(data: bytes, ending: str) -> list[bytes]:
    """Payloads of the boxes whose path ends so."""
    return [data[start:end] for path, start, end in walk(data, 0, len(data)) if path.endswith(ending)]


def top_level(data: bytes) -> list[str]:
    return [path[1:] for path, _, _ in walk(data, 0, len(data)) if path.count("/") == 1]


def chunk_offsets(data: bytes) -> list[list[int]]:
    """Each track's chunk offsets."""
    tables = [(table, "I") for table in payloads(data, "/stco")] + [(table, "Q") for table in payloads(data, "/co64")]
    return [list(struct.unpack_from(f">{struct.unpack_from('>I', t, 4)[0]}{letter}", t, 8)) for t, letter in tables]


def box(kind: str, *parts: bytes, long: bool = False, to_end: bool = False) -> bytes:
    payload = b"".join(parts)
    if long:
        return struct.pack(">I4sQ", 1, kind.encode(), 16 + len(payload)) + payload
    return struct.pack(">I4s", 0 if to_end else 8 + len(payload), kind.encode()) + payload


def track(handler: bytes, entry: bytes, offsets: list[int], wide: bool = False) -> bytes:
    letter, kind = ("Q", "co64") if wide else ("I", "stco")
    table = box(kind, bytes(4), struct.pack(f">I{len(offsets)}{letter}", len(offsets), *offsets))
    stbl = box("stbl", box("stsd", bytes(4), struct.pack(">I", 1), entry), table)
    return box("trak", box("mdia", box("hdlr", bytes(8), handler, bytes(13)), box("minf", stbl)))


def tiny_movie(order: str, *, wide: bool = False, long: bool = False, to_end: bool = False) -> bytes:
    """A movie of two video and two audio chunks, whose bytes name them; boxes by initial: f(typ), m(oov), d(mdat).

    Not decodable: only what a writer of metadata looks at is there. After the video's entry stand four zeros, as
    QuickTime writes them.
    """
    video = box("avc1", bytes(78), box("avcC", b"settings"), bytes(4))
    sound = box("mp4a", bytes(28))
    mdat = box("mdat", b"VID0SND0VID1SND1", long=long, to_end=to_end)
    offsets = [[0, 0], [0, 0]]
    for _ in range(2):  # first to know the moov's size, then with the offsets that follow from it
        tracks = [track(b"vide", video, offsets[0], wide), track(b"soun", sound, offsets[1], wide)]
        boxes = {"f": box("ftyp", b"isom"), "m": box("moov", *tracks), "d": mdat, "x": box("free", b"padding")}
        data = b"".join(boxes[letter] for letter in order)
        offsets = [[data.index(f"{name}{number}".encode()) for number in (0, 1)] for name in ("VID", "SND")]
    return data


def marked(data: bytes, folder: Path) -> bytes:
    """A movie, marked."""
    (folder / "in.mp4").write_bytes(data)
    add_spherical_metadata(folder / "in.mp4", folder / "out.mp4")
    return (folder / "out.mp4").read_bytes()


# MP4: structure


@pytest.mark.parametrize("wide", [False, True], ids=["stco", "co64"])
@pytest.mark.parametrize("order", ["fmd", "fdm", "fxmd", "fxdxm", "md", "dm", "fmxd"])
def test_chunk_offsets_point_to_the_same_samples(order: str, wide: bool, tmp_path: Path) -> None:
    result = marked(tiny_movie(order, wide=wide), tmp_path)
    chunks = [[result[offset : offset + 4] for offset in offsets] for offsets in chunk_offsets(result)]
    assert chunks == [[b"VID0", b"VID1"], [b"SND0", b"SND1"]]


@pytest.mark.parametrize("size", [{"long": True}, {"to_end": True}], ids=["64-bit size", "size to the end"])
def test_boxes_with_other_sizes_are_read(size: dict[str, bool], tmp_path: Path) -> None:
    result = marked(tiny_movie("fmd", **size), tmp_path)
    assert [[result[o : o + 4] for o in offsets] for offsets in chunk_offsets(result)][0] == [b"VID0", b"VID1"]


@pytest.mark.parametrize("order", ["fdxm", "fmxd"])
def test_the_movie_header_comes_first_and_no_other_box_is_lost(order: str, tmp_path: Path) -> None:
    result = marked(tiny_movie(order), tmp_path)
    kinds = top_level(result)
    assert kinds[:2] == ["ftyp", "moov"]
    assert sorted(kinds[2:]) == ["free", "mdat"]


def test_only_the_video_track_gets_both_versions_by_the_letter(tmp_path: Path) -> None:
    result = marked(tiny_movie("fmd"), tmp_path)
    (v1,) = payloads(result, "/moov/trak/uuid")
    assert v1.startswith(V1_UUID)
    tags = {child.tag.removeprefix(GSPHERICAL): child.text for child in ElementTree.fromstring(v1[16:].decode())}
    expected = {"Spherical": "true", "Stitched": "true", "ProjectionType": "equirectangular", "StereoMode": "mono"}
    assert tags.items() >= expected.items()
    assert tags["StitchingSoftware"]
    entry = "/moov/trak/mdia/minf/stbl/stsd/avc1"
    assert payloads(result, "/st3d") == payloads(result, f"{entry}/st3d") == [bytes(4) + b"\0"]
    assert payloads(result, f"{entry}/sv3d/proj/prhd") == [bytes(16)]
    assert payloads(result, f"{entry}/sv3d/proj/equi") == [bytes(20)]
    (source,) = payloads(result, f"{entry}/sv3d/svhd")
    assert source[:4] == bytes(4)
    assert source.endswith(b"\0")
    assert payloads(result, f"{entry}/avcC") == [b"settings"]


def test_quicktimes_closing_zeros_stay_last_in_the_sample_entry(tmp_path: Path) -> None:
    (entry,) = payloads(marked(tiny_movie("fmd"), tmp_path), "/avc1")
    assert entry.endswith(bytes(4))
    assert entry[:-4].endswith(payloads(entry[78:-4], "/sv3d")[0])


def test_what_stands_in_a_track_beside_its_metadata_stays() -> None:
    trak = track(b"vide", box("avc1", bytes(78)), [8])[8:] + box("uuid", bytes(16), b"another program's")
    assert b"another program's" in spherical_metadata.mark_track(trak)
    free = box("free", b"padding") + bytes(4)
    assert spherical_metadata.edit(free, (b"free",), lambda payload: payload) == free


def test_marking_twice_in_place_is_marking_once(tmp_path: Path) -> None:
    once = marked(tiny_movie("fdm"), tmp_path)
    file = tmp_path / "out.mp4"
    add_spherical_metadata(file, file)
    assert file.read_bytes() == once
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


def movie_of(data: bytes) -> bytes:
    """The moov's payload."""
    return payloads(data, "/moov")[0]


def test_offsets_get_64_bits_where_the_new_file_passes_4_gib() -> None:
    four_gib = 2**32
    data_start = four_gib - 200
    spans = [Span(b"ftyp", 0, 12), Span(b"mdat", 12, four_gib), Span(b"moov", four_gib, four_gib + 500)]
    offsets = [[28, data_start], [100, data_start + 50]]
    moov = box("moov", track(b"vide", b"", offsets[0]), track(b"soun", b"", offsets[1]))
    header, rest = lay_out(spans, moov[8:])
    assert payloads(header, "/stco") == []
    shift = len(header)
    assert chunk_offsets(header) == [[offset + shift for offset in table] for table in offsets]
    assert [span.kind for span in rest] == [b"mdat"]


def test_offsets_keep_32_bits_just_below_4_gib() -> None:
    moov = box("moov", track(b"vide", b"", [28]))
    end = 2**32 - 1 - len(moov)
    header, _ = lay_out([Span(b"mdat", 0, end), Span(b"moov", end, end + len(moov))], moov[8:])
    assert chunk_offsets(header) == [[28 + len(moov)]]
    assert len(payloads(header, "/stco")) == 1
    header, _ = lay_out([Span(b"mdat", 0, end + 1), Span(b"moov", end + 1, end + 1 + len(moov))], moov[8:])
    assert len(payloads(header, "/co64")) == 1


def test_samples_are_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spherical_metadata, "CHUNK", 1 << 16)
    size = 16 << 20
    data = tiny_movie("fmd", to_end=True)
    with (tmp_path / "in.mp4").open("wb") as stream:
        stream.write(data)
        stream.truncate(size)
    tracemalloc.start()
    add_spherical_metadata(tmp_path / "in.mp4", tmp_path / "out.mp4")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size / 16
    assert (tmp_path / "out.mp4").stat().st_size > size


# MP4: what is refused

VIDEO = track(b"vide", box("avc1", bytes(78)), [8])
HANDLER = box("hdlr", bytes(8), b"vide", bytes(13))
BROKEN = {
    "empty": (b"", "0 bytes where a box was expected"),
    "text": (b"this is no video at all", "at byte 0 a box"),
    "webm": (b"\x1a\x45\xdf\xa3" + bytes(40), "at byte 0 a box"),
    "cut off": (tiny_movie("fdm")[:-9], "box b'moov'"),
    "no movie header": (box("ftyp", b"isom") + box("mdat", b"VID0"), "0 movie headers"),
    "two movie headers": (box("moov", VIDEO) * 2, "2 movie headers"),
    "no video": (box("moov", track(b"soun", box("mp4a", bytes(28)), [])), "0 video tracks"),
    "two videos": (box("moov", VIDEO, VIDEO), "2 video tracks"),
    "fragments": (box("moov", VIDEO) + box("moof"), "fragments"),
    "items beside the movie": (box("moov", VIDEO) + box("meta"), "items of its own"),
    "fragments to come": (box("moov", VIDEO, box("mvex")), "fragments"),
    "chunk outside the data": (box("moov", track(b"vide", box("avc1", bytes(78)), [9999])), "chunk at byte 9999"),
    "short chunk table": (box("moov", track(b"vide", box("avc1", bytes(78)), []).replace(b"stsd", b"stco")), ""),
    "chunk table without its fields": (
        box("moov", box("trak", box("mdia", HANDLER, box("minf", box("stbl", box("stco", bytes(4))))))),
        "",
    ),
    "child longer than its box": (box("moov", VIDEO[:-1]), "b'trak'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_cannot_be_marked_is_refused_and_nothing_is_left_behind(name: str, tmp_path: Path) -> None:
    data, words = BROKEN[name]
    source, target = tmp_path / "in.mp4", tmp_path / "out.mp4"
    source.write_bytes(data)
    target.write_bytes(b"older file")
    with pytest.raises(ValueError, match=f"in.mp4: expected a whole, unfragmented MP4.*{words}"):
        add_spherical_metadata(source, target)
    assert target.read_bytes() == b"older file"
    assert len(list(tmp_path.iterdir())) == 2


# MP4: real files


def write_video(file: Path, codec: str, **options: str) -> None:
    """A 128 x 64 video of 30 frames with stereo sound, in small chunks of both."""
    noise = np.random.default_rng(0)
    with av.open(str(file), "w", options=options) as container:
        video = container.add_stream(codec, rate=25)
        video.width, video.height, video.pix_fmt = 128, 64, "yuv420p"
        video.codec_context.codec_tag = {"libx264": "avc1", "libx265": "hvc1"}[codec]
        video.codec_context.options = {"x265-params": "log-level=error"} if codec == "libx265" else {}
        sound = container.add_stream("aac", rate=48000, layout="stereo")
        for number in range(30):
            pixels = noise.integers(0, 256, (64, 128, 3), dtype=np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            samples = noise.uniform(-0.5, 0.5, (2, 1920)).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
            frame.sample_rate, frame.pts = 48000, number * 1920
            container.mux(sound.encode(frame))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))


def packets(file: Path) -> list[tuple[Any, ...]]:
    """All packets with their times."""
    with av.open(str(file)) as container:
        found = [(p.stream.index, p.pts, p.dts, p.duration, bytes(p)) for p in container.demux() if p.size]
    return sorted(found, key=lambda packet: (packet[0], packet[2]))


def ffprobe(file: Path) -> tuple[dict[str, Any], str]:
    """What ffprobe says of a video's first stream, and what it complains about."""
    command = ["ffprobe", "-v", "warning", "-of", "json", "-show_streams", "-select_streams", "v", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)["streams"][0], done.stderr


def exiftool(file: Path) -> dict[str, Any]:
    """Tags as "Group:Name", namespaces of XMP apart."""
    command = ["exiftool", "-json", "-G1", "-a", "-validate", "-warning", "-error", "-all", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)[0]


@pytest.fixture(scope="module", params=["libx264", "libx265", "libx264 header first"])
def video(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A video as an encoder wrote it, and marked."""
    codec, _, first = request.param.partition(" ")
    folder = tmp_path_factory.mktemp("video")
    write_video(folder / "plain.mp4", codec, **({"movflags": "faststart"} if first else {}))
    add_spherical_metadata(folder / "plain.mp4", folder / "marked.mp4")
    return folder / "plain.mp4", folder / "marked.mp4"


def test_every_packet_of_a_real_file_is_read_back_unchanged(video: tuple[Path, Path]) -> None:
    plain, result = map(packets, video)
    assert len(plain) > 60
    assert result == plain


def test_a_real_file_has_both_versions_once(video: tuple[Path, Path]) -> None:
    data = video[1].read_bytes()
    assert [box[:16] for box in payloads(data, "/trak/uuid")] == [V1_UUID]
    assert [len(payloads(data, ending)) for ending in ("/st3d", "/sv3d", "/equi")] == [1, 1, 1]
    assert payloads(video[0].read_bytes(), "/st3d") == []


@needs_ffprobe
@pytest.mark.parametrize("without", [b"", V1_UUID, b"sv3d"], ids=["both", "V2 alone", "V1 alone"])
def test_ffprobe_reports_spherical_mapping_by_each_version(
    video: tuple[Path, Path], without: bytes, tmp_path: Path
) -> None:
    data = video[1].read_bytes()
    assert without == b"" or data.count(without) == 1
    file = tmp_path / "video.mp4"
    file.write_bytes(data.replace(without, b"x" * len(without)) if without else data)
    stream, complaints = ffprobe(file)
    kinds = {side["side_data_type"]: side for side in stream["side_data_list"]}
    assert kinds["Spherical Mapping"]["projection"] == "equirectangular"
    assert complaints == ""


@needs_ffprobe
def test_ffprobe_reports_nothing_spherical_of_an_unmarked_file(video: tuple[Path, Path]) -> None:
    assert "side_data_list" not in ffprobe(video[0])[0]


@needs_exiftool
def test_exiftool_reads_both_versions(video: tuple[Path, Path]) -> None:
    tags = exiftool(video[1])
    v1 = {"Spherical": True, "Stitched": True, "ProjectionType": "equirectangular", "StereoMode": "mono"}
    assert {name: tags[f"XMP-GSpherical:{name}"] for name in v1} == v1
    assert tags["Track1:Stereoscopic3D"] == "Monoscopic"
    assert [tags[f"Track1:Pose{name}Degrees"] for name in ("Yaw", "Pitch", "Roll")] == [0, 0, 0]
    assert "ExifTool:Error" not in tags
    assert "ExifTool:Warning" not in tags


# Images


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (32, 64, 3), dtype=np.uint8))


def encoded(kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture().save(buffer, kind, **options)
    return buffer.getvalue()


def gpano_of(packet: bytes) -> dict[str, str]:
    """GPano tags of an XMP packet."""
    root = ElementTree.fromstring(packet.decode())
    (description,) = root.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    return {name.removeprefix(GPANO): value for name, value in description.items() if name.startswith(GPANO)}


GPANO_TAGS = {
    "ProjectionType": "equirectangular",
    "UsePanoramaViewer": "True",
    "FullPanoWidthPixels": "64",
    "FullPanoHeightPixels": "32",
    "CroppedAreaImageWidthPixels": "64",
    "CroppedAreaImageHeightPixels": "32",
    "CroppedAreaLeftPixels": "0",
    "CroppedAreaTopPixels": "0",
}


def png_text() -> PngInfo:
    info = PngInfo()
    info.add_text("workflow", '{"a": 1}')
    info.add_itxt("XML:com.adobe.xmp", "<old/>")
    return info


PLAIN = {
    "jpeg": lambda: encoded("JPEG", quality=90),
    "jpeg with exif and xmp": lambda: encoded("JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0", xmp=b"<old/>"),
    "png": lambda: encoded("PNG"),
    "png with text and xmp": lambda: encoded("PNG", pnginfo=png_text()),
}


@pytest.fixture(params=PLAIN)
def image(request: pytest.FixtureRequest) -> tuple[bytes, bytes]:
    """An image file without and with a panorama's XMP."""
    plain = PLAIN[request.param]()
    add = jpeg_with_xmp if request.param.startswith("jpeg") else png_with_xmp
    return plain, add(plain, gpano_xmp(64, 32))


def test_an_images_xmp_says_that_it_is_a_whole_panorama(image: tuple[bytes, bytes]) -> None:
    with Image.open(io.BytesIO(image[1])) as opened:
        opened.load()
        assert gpano_of(opened.info["xmp"]).items() >= GPANO_TAGS.items()


def test_pixels_and_other_metadata_stay_and_old_xmp_goes(image: tuple[bytes, bytes]) -> None:
    plain, result = (Image.open(io.BytesIO(data)) for data in image)
    np.testing.assert_array_equal(np.asarray(plain), np.asarray(result))
    mine = {"xmp", "XML:com.adobe.xmp"}
    assert {k: v for k, v in plain.info.items() if k not in mine} == {
        k: v for k, v in result.info.items() if k not in mine
    }
    assert b"<old/>" not in image[1]
    Image.open(io.BytesIO(image[1])).verify()  # checksums of PNG chunks


def test_xmp_added_twice_is_there_once(image: tuple[bytes, bytes]) -> None:
    add = jpeg_with_xmp if image[1].startswith(b"\xff\xd8") else png_with_xmp
    assert add(image[1], gpano_xmp(64, 32)) == image[1]


@needs_exiftool
def test_exiftool_reads_gpano(image: tuple[bytes, bytes], tmp_path: Path) -> None:
    file = tmp_path / "image"
    file.write_bytes(image[1])
    tags = exiftool(file)
    assert {name: str(tags[f"XMP-GPano:{name}"]) for name in GPANO_TAGS} == GPANO_TAGS
    assert "ExifTool:Error" not in tags


def test_what_is_no_image_of_the_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a JPEG"):
        jpeg_with_xmp(PLAIN["png"](), b"")
    with pytest.raises(ValueError, match="expected a PNG"):
        png_with_xmp(PLAIN["jpeg"](), b"")
    with pytest.raises(ValueError, match="damaged"):
        png_with_xmp(PLAIN["png"]()[:-5], b"")
    with pytest.raises(ValueError, match="damaged"):
        jpeg_with_xmp(PLAIN["jpeg"]()[:12], b"")
    with pytest.raises(ValueError, match="65504"):
        jpeg_with_xmp(PLAIN["jpeg"](), b" " * 70000)

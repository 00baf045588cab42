"""Writes workflows/NAME.jpg, the pictures by which the editor's template browser shows the workflows.

They are drawn from the pack's own sample files and show what goes in and what kind of picture comes out.
Run in the repository root: python -m scripts.build_thumbnails
"""

import io
import math
import sys
from collections.abc import Callable

import av
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from scripts.host import ROOT
from scripts.make_sample_clip import ASSETS, read_image, to_pixels
from viewpoint_core.camera import direction_to_view
from viewpoint_core.cubemap import FACE_YAW_PITCH
from viewpoint_core.resample import sample_erp
from viewpoint_core.sphere import erp_directions, pixel_grid
from viewpoint_core.viewpoint_map import erp_to_viewpoint
from viewpoint_core.views import place_view, render_view

WORKFLOWS = ROOT / "workflows"
SIDE, HALF = 400, 200
MAX_BYTES = 40_000
DARK, BRIGHT = (24, 24, 28), (255, 255, 255)
ORANGE = (255, 170, 60)
PLANET_ZOOM = 0.42  # of the horizon's radius in half sides
View = dict[str, float]


def panorama(name: str) -> Tensor:
    """One of the eight sample panoramas, (3, 512, 1024)."""
    return read_image(ASSETS / "panoramas" / f"{name}.jpg")


def clip_frame(number: int) -> Tensor:
    """A frame of the sample clip, (3, 512, 512)."""
    with av.open(str(ASSETS / "sample_clip.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return torch.from_numpy(frames[number]).movedim(-1, 0) / 255


def picture(image: Tensor) -> Image.Image:
    """(3, H, W) as a picture."""
    return Image.fromarray(to_pixels(image))


def scaled(image: Tensor, width: int, height: int) -> Image.Image:
    """(3, H, W) as a picture of this size."""
    return picture(image).resize((width, height), Image.Resampling.LANCZOS)


def little_planet(erp: Tensor, size: int = SIDE) -> Tensor:
    """The panorama seen from above, the ground in the middle (stereographic)."""
    x, y = ((values / size * 2 - 1) / PLANET_ZOOM for values in pixel_grid(size, size))
    radius = torch.hypot(x, y)
    latitude, longitude = 2 * torch.atan(radius) - math.pi / 2, torch.atan2(x, -y)
    flat = latitude.cos()
    direction = torch.stack([flat * longitude.sin(), -latitude.sin(), flat * longitude.cos()], dim=-1)
    return sample_erp(erp, direction).clamp(0, 1)


def seen_by(height: int, width: int, view: View, aspect: float = 1.0) -> Tensor:
    """(height, width) of an ERP image: 1 where a view sees, else 0."""
    return direction_to_view(erp_directions(height, width), round(360 * aspect), 360, **view)[2].float()


def outlined(erp: Tensor, view: View, colour: tuple[int, int, int], width: int = 5, aspect: float = 1.0) -> Tensor:
    """The ERP image with the edge of a view drawn in."""
    seen = seen_by(*erp.shape[-2:], view, aspect)
    edge = seen - (1 - F.max_pool2d(1 - seen[None, None], width, 1, width // 2)[0, 0])
    return torch.where(edge > 0, torch.tensor(colour).reshape(3, 1, 1) / 255, erp)


def canvas() -> Image.Image:
    """An empty thumbnail."""
    return Image.new("RGB", (SIDE, SIDE), DARK)


def framed(target: Image.Image, inset: Image.Image, left: int, top: int, colour: tuple[int, int, int] = BRIGHT) -> None:
    """Lay a picture over another, with a border."""
    ImageDraw.Draw(target).rectangle([left - 4, top - 4, left + inset.width + 3, top + inset.height + 3], fill=colour)
    target.paste(inset, (left, top))


def tagged(target: Image.Image, text: str) -> Image.Image:
    """A word in the upper left corner."""
    font, draw = ImageFont.load_default(34), ImageDraw.Draw(target)
    box = draw.textbbox((22, 14), text, font=font)
    draw.rounded_rectangle([box[0] - 10, box[1] - 8, box[2] + 10, box[3] + 8], 10, fill=DARK)
    draw.text((22, 14), text, font=font, fill=BRIGHT)
    return target


def film(frames: list[Tensor], size: int) -> Image.Image:
    """Frames side by side on a strip with holes."""
    strip = Image.new("RGB", (size * len(frames) + 6 * (len(frames) - 1), size + 36), (0, 0, 0))
    draw = ImageDraw.Draw(strip)
    for number, frame in enumerate(frames):
        strip.paste(scaled(frame, size, size), ((size + 6) * number, 18))
    for x in range(6, strip.width - 8, 20):
        for y in (5, strip.height - 13):
            draw.rounded_rectangle([x, y, x + 9, y + 7], 2, fill=BRIGHT)
    return strip


def video_to_360() -> Image.Image:
    """The planet around the place, three frames of the clip before it."""
    made = picture(little_planet(read_image(ASSETS / "sample_erp.png")))
    strip = film([clip_frame(number) for number in (0, 24, 48)], 108)
    framed(made, strip, (SIDE - strip.width) // 2, SIDE - strip.height - 14)
    return made


def image_to_360() -> Image.Image:
    """What is known of a panorama above, the panorama below."""
    erp, view = read_image(ASSETS / "sample_erp.png"), {"fov_deg": 90.0}
    seen = seen_by(*erp.shape[-2:], view)
    known = outlined(torch.where(seen > 0, erp, 0.35), view, ORANGE, 9)
    made = canvas()
    made.paste(scaled(known, SIDE, HALF - 3), (0, 0))
    made.paste(scaled(outlined(erp, view, ORANGE, 5), SIDE, HALF - 3), (0, HALF + 3))
    return made


def text_to_360() -> Image.Image:
    """A forest's planet and the beginning of a prompt."""
    made = picture(little_planet(panorama("forest")))
    draw, font = ImageDraw.Draw(made), ImageFont.load_default(25)
    draw.rounded_rectangle([16, 296, SIDE - 16, SIDE - 16], 14, fill=DARK, outline=BRIGHT, width=3)
    draw.text((34, 310), "A clearing in a forest at\nsunrise, seen all around ...", font=font, fill=BRIGHT, spacing=8)
    return made


def erp_roundtrip() -> Image.Image:
    """A panorama, and its map between arrows."""
    erp = panorama("sunset")
    made, map_side = canvas(), HALF - 12
    made.paste(scaled(erp, SIDE, HALF), (0, 0))
    left = (SIDE - map_side) // 2
    made.paste(scaled(erp_to_viewpoint(erp, 736), map_side, map_side), (left, HALF + 6))
    draw = ImageDraw.Draw(made)
    for x, turn in ((left // 2, 1), (SIDE - left // 2, -1)):
        draw.line([x, 245, x, 350], fill=ORANGE, width=12)
        tip, base = (360, 325) if turn > 0 else (235, 270)
        draw.polygon([(x - 24, base), (x + 24, base), (x, tip)], fill=ORANGE)
    return made


def tiny_map(view: Tensor, map_size: int = 256) -> Image.Image:
    """What the tiny model is given: the view on its small map, the rest grey, at its own pixels."""
    placed, mask = place_view(view, map_size, fov_deg=90)
    return picture(placed * mask + 0.35 * (1 - mask)).resize((SIDE, SIDE), Image.Resampling.NEAREST)


def tiny_video_to_360() -> Image.Image:
    """The clip on the small map."""
    made = tiny_map(clip_frame(24))
    strip = film([clip_frame(number) for number in (0, 48)], 96)
    framed(made, strip, (SIDE - strip.width) // 2, SIDE - strip.height - 14)
    return tagged(made, "tiny")


def tiny_image_to_360() -> Image.Image:
    """The photo on the small map."""
    made = tiny_map(read_image(ASSETS / "sample_photo.png"))
    framed(made, scaled(read_image(ASSETS / "sample_photo.png"), 130, 130), 18, SIDE - 148)
    return tagged(made, "tiny")


def handheld_to_360() -> Image.Image:
    """Where a handheld camera looked, and the frames that it took."""
    erp = panorama("city")
    views = [
        {"yaw_deg": -55.0, "pitch_deg": -8.0, "roll_deg": -9.0, "fov_deg": 60.0},
        {"yaw_deg": 0.0, "pitch_deg": 12.0, "roll_deg": 4.0, "fov_deg": 60.0},
        {"yaw_deg": 55.0, "pitch_deg": -4.0, "roll_deg": 10.0, "fov_deg": 60.0},
    ]
    marked = erp
    for view in views:
        marked = outlined(marked, view, ORANGE, 9)
    made = canvas()
    made.paste(scaled(marked, SIDE, HALF), (0, 0))
    size = 128
    for number, view in enumerate(views):
        framed(made, scaled(render_view(erp, 256, 256, **view), size - 8, size - 8), 8 + number * 132, 244, ORANGE)
    return made


def two_photos_to_360() -> Image.Image:
    """Two photos that look elsewhere, the places between unknown."""
    erp = panorama("sunrise")
    views = [{"yaw_deg": -60.0, "fov_deg": 75.0}, {"yaw_deg": 65.0, "pitch_deg": 8.0, "fov_deg": 75.0}]
    seen = torch.stack([seen_by(*erp.shape[-2:], view) for view in views]).amax(0)
    known = torch.where(seen > 0, erp, 0.35)
    for view in views:
        known = outlined(known, view, ORANGE, 9)
    made = canvas()
    made.paste(scaled(known, SIDE, HALF), (0, 0))
    for number, view in enumerate(views):
        framed(made, scaled(render_view(erp, 360, 360, **view), 172, 172), 18 + number * 192, 214, ORANGE)
    return made


def saved_prompt_to_360() -> Image.Image:
    """A night's planet and a prompt in a file."""
    made = picture(little_planet(panorama("night")))
    draw, font = ImageDraw.Draw(made), ImageFont.load_default(25)
    draw.polygon([(110, 268), (262, 268), (290, 296), (290, 386), (110, 386)], fill=DARK, outline=BRIGHT, width=3)
    draw.line([262, 268, 262, 296, 290, 296], fill=BRIGHT, width=3)
    draw.text((132, 306), "saved\nprompt", font=font, fill=BRIGHT)
    return made


def reframe() -> Image.Image:
    """The way of a camera over a panorama, and its flat picture."""
    erp, made = panorama("sunset"), canvas()
    marked = erp
    for yaw_deg in (70.0, 107.0):
        marked = outlined(marked, {"yaw_deg": yaw_deg, "fov_deg": 60.0}, BRIGHT, 5, 9 / 16)
    marked = outlined(marked, {"yaw_deg": 145.0, "fov_deg": 60.0}, ORANGE, 9, 9 / 16)
    made.paste(scaled(marked, SIDE, HALF), (0, 0))
    shot = render_view(erp, 344, 612, yaw_deg=145, fov_deg=60)
    framed(made, scaled(shot, 306, 172), 47, 214, ORANGE)
    return made


def cubemap_roundtrip() -> Image.Image:
    """The six faces of a panorama as an unfolded cube."""
    erp, made, side = panorama("sunset"), canvas(), 96
    places = {"L": (0, 1), "F": (1, 1), "R": (2, 1), "B": (3, 1), "U": (1, 0), "D": (1, 2)}
    for face, (column, row) in places.items():
        yaw_deg, pitch_deg = FACE_YAW_PITCH[face]
        view = render_view(erp, 2 * side, 2 * side, yaw_deg=yaw_deg, pitch_deg=pitch_deg)
        made.paste(scaled(view, side, side), (4 + column * (side + 3), 52 + row * (side + 3)))
    return made


def upscale_to_4k() -> Image.Image:
    """The same view coarse and sharp."""
    view = render_view(panorama("sunset"), SIDE, SIDE, yaw_deg=165, pitch_deg=8, fov_deg=60).clamp(0, 1)
    coarse = F.interpolate(F.avg_pool2d(view[None], 8), scale_factor=8, mode="nearest")[0]
    left = torch.arange(SIDE) < HALF
    made = picture(torch.where(left, coarse, view))
    ImageDraw.Draw(made).line([HALF, 0, HALF, SIDE], fill=BRIGHT, width=4)
    return tagged(made, "4K")


THUMBNAILS: dict[str, Callable[[], Image.Image]] = {
    "video_to_360": video_to_360,
    "image_to_360": image_to_360,
    "text_to_360": text_to_360,
    "erp_roundtrip": erp_roundtrip,
    "tiny_video_to_360": tiny_video_to_360,
    "tiny_image_to_360": tiny_image_to_360,
    "handheld_to_360": handheld_to_360,
    "two_photos_to_360": two_photos_to_360,
    "saved_prompt_to_360": saved_prompt_to_360,
    "upscale_to_4k": upscale_to_4k,
    "reframe": reframe,
    "cubemap_roundtrip": cubemap_roundtrip,
}


def encoded(image: Image.Image) -> bytes:
    """As JPEG, in the best quality that stays small."""
    for quality in range(88, 30, -6):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, optimize=True, progressive=True)
        if buffer.tell() <= MAX_BYTES:
            return buffer.getvalue()
    raise ValueError(f"a thumbnail of {image.size} takes more than {MAX_BYTES} bytes in every quality")


def main() -> int:
    """Write them all."""
    for name, draw in THUMBNAILS.items():
        file = WORKFLOWS / f"{name}.jpg"
        file.write_bytes(encoded(draw()))
        print(file.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())

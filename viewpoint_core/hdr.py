"""HDR and wide-gamut video as SDR: HLG, PQ and BT.2020 codes -> BT.709 codes, as an SDR file holds them.

Numbers of primaries and transfers are those of ITU-T H.273. Light is relative to reference white, 203 cd/m2 in HDR
(ITU-R BT.2408) and 1 in SDR, and SDR codes are light to the power 1 / 2.4, as BT.1886 displays show them. FFmpeg's
filters for this, zscale and libplacebo, are in none of PyAV's wheels.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

BT709, UNSPECIFIED, BT2020, P3_D65 = 1, 2, 9, 12  # primaries
BT2020_TRANSFERS = (14, 15)  # SDR curves, of 10 and 12 bits
PQ, HLG = 16, 18  # transfers
WHITE_NITS = 203
PEAK_NITS = 1000  # of HLG's reference display (BT.2100); what PQ shows above it is white
PEAK = PEAK_NITS / WHITE_NITS
SYSTEM_GAMMA = 1.2  # of that display, BT.2100 table 5
DISPLAY_GAMMA = 2.4  # BT.1886
KNEE = 0.7
WHITE_CODE = 255 << 8  # FFmpeg's 16-bit RGB from limited-range YUV has its white there
BAND_PIXELS = 1 << 16  # as many fit into a core's cache
ROOT_STEPS = 4095
D65 = (0.3127, 0.3290)
CHROMATICITIES = {
    BT709: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
    BT2020: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    P3_D65: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
BT2020_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)


class Colours(NamedTuple):
    """What a video's codes mean: numbers of its primaries and its transfer."""

    primaries: int = BT709
    transfer: int = BT709

    @property
    def hdr(self) -> bool:
        """True for light beyond SDR's white."""
        return self.transfer in (PQ, HLG)

    @property
    def gamut(self) -> int:
        """The primaries; what states none is BT.2020 with BT.2020's or an HDR transfer, else BT.709."""
        wide = self.hdr or self.transfer in BT2020_TRANSFERS
        if self.primaries == UNSPECIFIED:
            return BT2020 if wide else BT709
        return self.primaries if self.primaries in CHROMATICITIES else BT709

    @property
    def plain(self) -> bool:
        """True where the codes are an SDR file's and stay as they are."""
        return not self.hdr and self.gamut == BT709


def hlg_scene(codes: np.ndarray) -> np.ndarray:
    """HLG codes in [0, 1] -> scene light in [0, 1]: the inverse OETF, BT.2100 table 5."""
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    return np.where(codes <= 0.5, codes**2 / 3, (np.exp((codes - c) / a) + b) / 12)


def pq_nits(codes: np.ndarray) -> np.ndarray:
    """PQ codes in [0, 1] -> light in cd/m2: the EOTF, BT.2100 table 4."""
    m1, m2 = 2610 / 16384, 2523 / 32
    c1, c2, c3 = 3424 / 4096, 2413 / 128, 2392 / 128
    root = codes ** (1 / m2)
    return 10000 * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)


@lru_cache(4)
def light_of_codes(transfer: int) -> np.ndarray:
    """Of each 16-bit code its light, float32 (65536): relative to white, or HLG's scene light."""
    codes = np.minimum(np.arange(1 << 16) / WHITE_CODE, 1)
    curves = {HLG: hlg_scene, PQ: lambda codes: pq_nits(codes) / WHITE_NITS}
    return curves.get(transfer, lambda codes: codes**DISPLAY_GAMMA)(codes).astype(np.float32)


def of_roots(light: np.ndarray, table: np.ndarray) -> np.ndarray:
    """What a table of ROOT_STEPS + 1 values says of light in [0, 1]. It goes by even steps of the square root, so that
    they are fine near black."""
    return table[(np.sqrt(light) * ROOT_STEPS + 0.5).astype(np.int64)]


def root_table(curve: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The table of a curve for `of_roots`."""
    return curve((np.arange(ROOT_STEPS + 1) / ROOT_STEPS) ** 2)


@lru_cache(1)
def codes_table() -> np.ndarray:
    """SDR codes of light, uint8."""
    return root_table(lambda light: np.round(255 * light ** (1 / DISPLAY_GAMMA)).astype(np.uint8))


@lru_cache(1)
def display_table() -> np.ndarray:
    """By how much HLG's reference display makes scene light of a luminance brighter: the OOTF, BT.2100 table 5."""
    return root_table(lambda luminance: (PEAK * luminance ** (SYSTEM_GAMMA - 1)).astype(np.float32))


def to_xyz(primaries: int) -> np.ndarray:
    """The matrix (3, 3) from linear RGB, whose white is D65, to CIE XYZ."""
    columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in (*CHROMATICITIES[primaries], D65)]).T
    return columns[:, :3] * np.linalg.solve(columns[:, :3], columns[:, 3])


@lru_cache(4)
def to_bt709(primaries: int) -> np.ndarray:
    """The matrix, float32 (3, 3), from linear RGB to that of BT.709."""
    return np.linalg.solve(to_xyz(BT709), to_xyz(primaries)).astype(np.float32)


def soft_shoulder(light: np.ndarray) -> np.ndarray:
    """Light as it is up to the knee, ever flatter above it up to 1 for the peak: Reinhard's curve, extended."""
    room, peak = 1 - KNEE, (PEAK - KNEE) / (1 - KNEE)
    above = np.maximum(light - KNEE, 0) / room
    return np.minimum(light, KNEE) + room * above * (1 + above / peak**2) / (1 + above)


def shoulder_gain(light: np.ndarray) -> np.ndarray:
    """What the shoulder multiplies pixels (3, N) by: it acts on the largest of R, G and B, and the hue stays (ITU-R
    BT.2390, maxRGB)."""
    largest = np.maximum(light.max(0), np.float32(1e-6))
    return soft_shoulder(largest) / largest


def sdr_codes(planes: Sequence[np.ndarray], colours: Colours) -> np.ndarray:
    """R', G' and B', uint16 (H, W) each with white at 255 * 256 -> BT.709 SDR codes, uint8 (3, H, W).

    HDR's reference white comes out a little below white, since what is brighter, up to 1000 cd/m2, has to keep its
    shape. Colours that BT.709 has not are cut off.
    """
    (height, width), table = planes[0].shape, light_of_codes(colours.transfer)
    out = np.empty((3, height, width), np.uint8)
    rows = max(1, BAND_PIXELS // width)
    for top in range(0, height, rows):
        band = slice(top, top + rows)
        coded = np.stack([table[plane[band]].ravel() for plane in planes])
        light = to_bt709(colours.gamut) @ coded
        if colours.transfer == HLG:
            light *= of_roots(BT2020_LUMINANCE @ coded, display_table())
        if colours.hdr:
            light *= shoulder_gain(light)
        out[:, band] = of_roots(light.clip(0, 1), codes_table()).reshape(3, -1, width)
    return out

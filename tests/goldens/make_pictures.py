"""Writes tests/goldens/pictures/*.parquet: small pictures of every format and variant, and what Pillow makes of them and of damaged
copies.

Run: python tests/goldens/make_pictures.py [FORMAT ...]
     (Pillow 13, numpy, pyarrow, blake3, tifffile and imagecodecs; the output is committed)

One file a format, one row a picture:
name     what is special about it
bytes    the file
results  of the picture, then of its damaged copies 1, 2, ...: 12 hexadecimal digits of the BLAKE3 hash of "WIDTH HEIGHT\n" and the
         RGB pixels of `exif_transpose(open(..)).convert("RGB")`, or "-" if Pillow refuses it

`damaged` below and `damaged` in tests/it/pictures.rs make the same copies.
"""

import io
import pathlib
import random
import struct
import sys
import warnings
import zlib

import blake3
import imagecodecs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tifffile
from PIL import Image, ImageOps

ROOT = pathlib.Path(__file__).parents[2]
OUT = pathlib.Path(__file__).parent / "pictures"
COPIES = 60
# No other format of Pillow is asked: a damaged file is no picture of another kind.
FORMATS = ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF"]
Image.init()
Image.MAX_IMAGE_PIXELS = None
# As in `limits.max_image_pixels` of the test.
MOST_PIXELS = 1 << 22
MASK = (1 << 64) - 1

PHOTO = Image.open(sorted((ROOT / "sample_data/photos").iterdir())[0]).convert("RGB").resize((45, 30), Image.LANCZOS)
RNG = random.Random(7)


# Damage


class Numbers:
    """xorshift64*"""

    def __init__(self, seed):
        self.state = (seed * 0x9E3779B97F4A7C15 + 0x1234567) & MASK

    def below(self, end):
        x = self.state
        x ^= x >> 12
        x ^= (x << 25) & MASK
        x ^= x >> 27
        self.state = x
        return ((x * 0x2545F4914F6CDD1D & MASK) >> 33) % end


def damaged(data, seed):
    """A copy with one to three changes; the checksums of PNG chunks are set right in half of the copies."""
    numbers = Numbers(seed)
    data = bytearray(data)
    for _ in range(1 + numbers.below(3)):
        size = len(data)
        if size < 8:
            break
        # Half of the changes are in the header.
        at = numbers.below(min(size, 96)) if numbers.below(2) == 0 else numbers.below(size)
        match numbers.below(12):
            case 0 | 1 | 2:
                data[at] ^= 1 << numbers.below(8)
            case 3 | 4:
                data[at] = numbers.below(256)
            case 5:
                data[at] = [0, 1, 2, 4, 8, 16, 127, 128, 254, 255][numbers.below(10)]
            case 6:
                del data[size - 1 - numbers.below(size // 2) :]
            case 7:
                del data[size - 1 - numbers.below(min(size // 2, 40)) :]
            case 8:
                del data[at : at + 1 + numbers.below(8)]
            case 9:
                data[at:at] = bytes([numbers.below(256)]) * (1 + numbers.below(8))
            case 10:
                end = min(size, at + 1 + numbers.below(16))
                data[at:end] = bytes(end - at)
            case 11:
                data += bytes([numbers.below(256)]) * (1 + numbers.below(64))
    if data[:4] == b"\x89PNG" and numbers.below(2) == 0:
        at = 8
        while at + 12 <= len(data):
            length = int.from_bytes(data[at : at + 4], "big")
            end = at + 8 + length
            if end + 4 > len(data):
                break
            data[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
            at = end + 4
    return bytes(data)


def result(data):
    warnings.simplefilter("ignore")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MOST_PIXELS:
            return "-"
        image.load()
    except Exception:
        return "-"
    try:
        # Metadata that cannot be read is no reason to refuse a picture.
        image = ImageOps.exif_transpose(image)
    except Exception:
        pass
    try:
        image = image.convert("RGB")
    except Exception:
        return "-"
    found = blake3.blake3(f"{image.width} {image.height}\n".encode())
    found.update(image.tobytes())
    return found.hexdigest()[:12]


# Pictures


def encoded(image, fmt, **options):
    out = io.BytesIO()
    image.save(out, fmt, **options)
    return out.getvalue()


def exif(orientation, big=False):
    order = ">" if big else "<"
    head = b"MM\0*" if big else b"II*\0"
    return b"Exif\0\0" + head + struct.pack(order + "IHHHIHHI", 8, 1, 0x112, 3, 1, orientation, 0, 0)


def cmyk():
    values = np.asarray(PHOTO)
    k = (255 - values.max(axis=2)) // 2
    return np.dstack([255 - values - k[..., None].clip(0, 40), k]).astype(np.uint8)


def segment(marker, data):
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def jpegs():
    base = encoded(PHOTO, "JPEG", quality=80)
    yield "rgb", base
    for name, options in {
        "444": {"subsampling": 0},
        "422": {"subsampling": 1},
        "411": {"subsampling": "4:1:1"},
        "progressive": {"progressive": True},
        "optimized": {"optimize": True},
        "restart_blocks": {"restart_marker_blocks": 2},
        "restart_rows": {"restart_marker_rows": 1},
        "keep_rgb": {"keep_rgb": True},
        "quality_100": {"quality": 100, "subsampling": 0},
        "quality_5": {"quality": 5},
        "icc": {"icc_profile": b"abcd" * 40},
        "comment": {"comment": b"a comment"},
    }.items():
        yield name, encoded(PHOTO, "JPEG", **options)
    gray = PHOTO.convert("L")
    yield "gray", encoded(gray, "JPEG")
    yield "gray_progressive", encoded(gray, "JPEG", progressive=True)
    ink = Image.fromarray(cmyk(), "CMYK")
    plain = encoded(ink, "JPEG", quality=85)
    yield "cmyk", plain
    adobe = segment(0xEE, b"Adobe\0\x64\0\0\0\0\0")
    yield "cmyk_adobe", plain[:2] + adobe + plain[2:]
    at = plain.find(b"Adobe")
    if at > 0:
        yield "cmyk_without_adobe", plain[: at - 4] + plain[at + 12 :]
    yield "ycck", (ROOT / "tests/fixtures/images/ycck_adobe.jpg").read_bytes()
    ycck = bytearray(plain[:2] + adobe[:-1] + b"\2" + plain[2:])
    yield "ycck_by_marker", bytes(ycck)
    for transform in (0, 1, 2, 3):
        yield f"rgb_adobe_{transform}", base[:2] + adobe[:-1] + bytes([transform]) + base[2:]
        without = base[:2] + base[2 + 18 :]
        yield f"rgb_adobe_only_{transform}", without[:2] + adobe[:-1] + bytes([transform]) + without[2:]
    yield "no_jfif", base[:2] + base[2 + 18 :]
    ids = bytearray(base[:2] + base[2 + 18 :])
    sof, sos = ids.find(b"\xff\xc0"), ids.find(b"\xff\xda")
    for number, letter in enumerate(b"RGB"):
        ids[sof + 10 + 3 * number] = letter
        ids[sos + 5 + 2 * number] = letter
    yield "rgb_ids", bytes(ids)
    odd = bytearray(base)
    sof, sos = odd.find(b"\xff\xc0"), odd.find(b"\xff\xda")
    for number in range(3):
        odd[sof + 10 + 3 * number] = 7 + number
        odd[sos + 5 + 2 * number] = 7 + number
    yield "odd_ids", bytes(odd)
    profile = b"ICC_PROFILE\0"
    one = segment(0xE2, profile + b"\1\1" + b"x" * 100)
    for name, chunks in {
        "icc_doubled": [one, one],
        "icc_count_too_large": [segment(0xE2, profile + b"\1\3" + b"x" * 100)],
        "icc_count_zero": [segment(0xE2, profile + b"\0\0" + b"x" * 100)],
        "icc_short": [segment(0xE2, profile)],
        "icc_counts_differ": [one, segment(0xE2, profile + b"\2\2y")],
        "icc_number_too_large": [segment(0xE2, profile + b"\5\2x"), segment(0xE2, profile + b"\1\2x")],
        "exif_6": [segment(0xE1, exif(6))],
        "exif_8_big": [segment(0xE1, exif(8, True))],
        "exif_twice": [segment(0xE1, exif(6)), segment(0xE1, exif(3))],
        "exif_damaged": [segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\xff\xff")],
        "exif_empty": [segment(0xE1, b"Exif\0\0")],
        "xmp_5": [segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation=\"5\"/>")],
        "flashpix": [segment(0xE2, b"FPXR\0abc")],
        "photoshop": [segment(0xED, b"Photoshop 3.0\0" + b"8BIM\x03\xed\0\0\0\0\0\x10" + bytes(16))],
        "app_short_adobe": [segment(0xEE, b"Adobe")],
        "jfif_short": [segment(0xE0, b"JFIF\0")],
        "jfxx": [segment(0xE0, b"JFXX\0\x10abc")],
        "fill_bytes": [b"\xff\xff\xff\xff"],
        "junk": [b"abc\0def"],
        "second_soi": [b"\xff\xd8"],
        "rst_in_header": [b"\xff\xd0"],
        "dnl": [segment(0xDC, b"\0\x1e")],
        "app_length_0": [b"\xff\xe5\0\0"],
        "app_length_1": [b"\xff\xe5\0\1"],
        "jpg_extension": [b"\xff\xf3"],
        "jpg_extension_long": [segment(0xF3, b"abcdef")],
        "dac": [segment(0xCC, b"\0\x10")],
        "com": [segment(0xFE, b"hello")],
        "exp": [segment(0xDF, b"\1")],
        "dhp": [segment(0xDE, base[sof + 4 : sof + 4 + 15])],
        "res": [segment(0x30, b"abc")],
        "tem": [b"\xff\x01"],
    }.items():
        yield name, base[:2] + b"".join(chunks) + base[2:]
    assert base[-2:] == b"\xff\xd9"
    yield "no_eoi", base[:-2]
    yield "no_eoi_zeros", base[:-2] + bytes(1000)
    yield "no_eoi_zeros_long", base[:-2] + bytes(200000)
    yield "no_eoi_text", base[:-2] + b"the end" * 30
    yield "half_eoi", base[:-1]
    yield "half_zeros", base[: len(base) // 2 + 200] + bytes(3000)
    yield "half_eoi_marker", base[: len(base) // 2 + 200] + b"\xff\xd9"
    yield "half_rst", base[: len(base) // 2 + 200] + b"\xff\xd3" + base[len(base) // 2 + 210 :]
    yield "twice", base + base
    yield "trailing_zeros", base + bytes(500)
    yield "trailing_text", base + b"trailing text"
    yield "leading_zero", b"\0" + base
    yield "leading_newline", b"\n" + base
    yield "header_only", base[: base.find(b"\xff\xda")]
    yield "header_and_sos", base[: base.find(b"\xff\xda") + 14]
    restart = bytearray(encoded(PHOTO, "JPEG", restart_marker_blocks=1))
    for number in range(8):
        at = restart.find(bytes([0xFF, 0xD0 + number]), restart.find(b"\xff\xda"))
        if at > 0 and number % 3 == 1:
            restart[at + 1] = 0xD0 + (number + 3) % 8
    yield "restart_wrong", bytes(restart)
    lost = bytearray(encoded(PHOTO, "JPEG", restart_marker_blocks=1))
    at = lost.find(b"\xff\xd2", lost.find(b"\xff\xda"))
    del lost[at : at + 2]
    yield "restart_lost", bytes(lost)
    for precision in (7, 9, 12, 16, 0):
        other = bytearray(base)
        other[other.find(b"\xff\xc0") + 4] = precision
        yield f"precision_{precision}", bytes(other)
    deep = (np.asarray(PHOTO).astype(np.uint16) * 16)
    yield "bits_12", imagecodecs.jpeg8_encode(deep, bitspersample=12)
    yield "bits_12_gray", imagecodecs.jpeg8_encode(deep[..., 0].copy(), bitspersample=12)
    yield "lossless", imagecodecs.jpeg8_encode(np.asarray(PHOTO), lossless=True)
    yield "lossless_16", imagecodecs.jpeg8_encode(deep, lossless=True, bitspersample=16)
    for marker in (0xC1, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF):
        other = bytearray(base)
        other[other.find(b"\xff\xc0") + 1] = marker
        yield f"sof_{marker:x}", bytes(other)
    for number in (2, 5):
        other = bytearray(base)
        other[other.find(b"\xff\xc0") + 9] = number
        yield f"components_{number}", bytes(other)
    zero = bytearray(base)
    zero[sof + 5 : sof + 7] = b"\0\0"
    yield "height_0", bytes(zero)
    tall = bytearray(base)
    tall[sof + 5 : sof + 7] = struct.pack(">H", 200)
    yield "taller", bytes(tall)
    flat = bytearray(base)
    flat[sof + 5 : sof + 7] = struct.pack(">H", 17)
    yield "shorter", bytes(flat)
    tables = bytearray()
    at = 2
    while base[at + 1] != 0xDA:
        length = struct.unpack(">H", base[at + 2 : at + 4])[0]
        if base[at + 1] != 0xC4:
            tables += base[at : at + 2 + length]
        at += 2 + length
    yield "no_huffman_tables", base[:2] + bytes(tables) + base[at:]
    no_dqt = base.replace(b"\xff\xdb", b"\xff\xe7")
    yield "no_quantization", no_dqt
    yield "mpo", encoded(PHOTO, "MPO", save_all=True, append_images=[PHOTO.rotate(180)])
    yield "mpo_3", encoded(PHOTO.crop((0, 0, 16, 16)), "MPO", save_all=True, append_images=[gray, PHOTO])
    yield "one_pixel", encoded(PHOTO.crop((5, 5, 6, 6)), "JPEG")
    yield "one_row", encoded(PHOTO.crop((0, 5, 45, 6)), "JPEG")
    for across, down in ((1, 1), (1, 2), (2, 1), (2, 2), (4, 1), (1, 4), (4, 2), (3, 1), (1, 3), (4, 4), (2, 4)):
        if (across, down) in ((1, 1), (2, 1), (2, 2), (1, 2), (4, 1), (1, 4)):
            named = {(1, 1): "444", (2, 1): "422", (2, 2): "420", (1, 2): "440", (4, 1): "411", (1, 4): "441"}
            try:
                data = imagecodecs.jpeg8_encode(np.asarray(PHOTO), subsampling=named[across, down], level=70)
            except Exception:
                continue
            yield f"sampling_{across}{down}", data
        changed = bytearray(base)
        changed[sof + 11] = across << 4 | down
        yield f"sampling_said_{across}{down}", bytes(changed)
    chroma = bytearray(base)
    chroma[sof + 14] = 0x21
    yield "sampling_of_one_chroma", bytes(chroma)


def png_chunk(kind, data, crc=None):
    crc = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png_of(width, height, depth, color, interlaced, chunks=(), raw=None, after=()):
    """Random filters and values that look like something."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    if raw is None:
        raw = bytearray()
        values = np.asarray(PHOTO.convert("L").resize((width * channels, height)))
        sizes = [(width, height)]
        if interlaced:
            starts = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
            sizes = [((width - x + dx - 1) // dx, (height - y + dy - 1) // dy) for x, y, dx, dy in starts]
        for w, h in sizes:
            if w == 0 or h == 0:
                continue
            for y in range(h):
                row = (w * channels * depth + 7) // 8
                raw.append((y + depth) % 5)
                raw += bytes(int(values[y % height][x % values.shape[1]]) // (3 + y % 2) for x in range(row))
    ihdr = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, int(interlaced))
    idat = zlib.compress(bytes(raw), 9)
    parts = [png_chunk(b"IHDR", ihdr), *chunks, png_chunk(b"IDAT", idat), *after, png_chunk(b"IEND", b"")]
    return SIGNATURE + b"".join(parts)


def pngs():
    small = PHOTO.resize((29, 19))
    base = encoded(small, "PNG")
    yield "rgb", base
    palette = png_chunk(b"PLTE", bytes(RNG.randrange(256) for _ in range(768)))
    depths = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
    for color, allowed in depths.items():
        for depth in allowed:
            extra = [palette] if color == 3 else []
            for interlaced in (False, True):
                kind = "interlaced" if interlaced else "plain"
                yield f"color_{color}_{depth}_{kind}", png_of(21, 13, depth, color, interlaced, extra)
            if color in (0, 2, 3):
                shades = {0: 2, 2: 6, 3: 9}[color]
                trns = png_chunk(b"tRNS", bytes(RNG.randrange(256) for _ in range(shades)))
                yield f"color_{color}_{depth}_trns", png_of(21, 13, depth, color, False, [*extra, trns])
                yield f"color_{color}_{depth}_trns_short", png_of(21, 13, depth, color, True, [*extra, png_chunk(b"tRNS", b"\1")])
    for width, height in ((1, 1), (1, 9), (3, 2), (5, 5), (8, 8), (9, 1)):
        yield f"interlaced_{width}x{height}", png_of(width, height, 8, 2, True)
        yield f"interlaced_bits_{width}x{height}", png_of(width, height, 1, 0, True)
    for color, depth in ((0, 3), (2, 4), (4, 4), (3, 16), (6, 1), (1, 8), (5, 8), (7, 8)):
        data = bytearray(png_of(21, 13, 8, 2, False))
        data[24:26] = bytes([depth, color])
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        yield f"wrong_kind_{color}_{depth}", bytes(data)
    for name, at, value in (("compression_1", 26, 1), ("filter_1", 27, 1), ("interlace_2", 28, 2), ("interlace_255", 28, 255)):
        data = bytearray(base)
        data[at] = value
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        yield name, bytes(data)
    yield "palette_missing", png_of(21, 13, 8, 3, False)
    yield "palette_short", png_of(21, 13, 8, 3, False, [png_chunk(b"PLTE", palette[8 : 8 + 12])])
    yield "palette_empty", png_of(21, 13, 8, 3, False, [png_chunk(b"PLTE", b"")])
    yield "palette_of_parts", png_of(21, 13, 8, 3, False, [png_chunk(b"PLTE", palette[8 : 8 + 14])])
    yield "palette_long", png_of(21, 13, 4, 3, False, [png_chunk(b"PLTE", palette[8:-4] + b"abcdef" * 10)])
    yield "palette_twice", png_of(21, 13, 4, 3, False, [palette, png_chunk(b"PLTE", b"\x80" * 48)])
    yield "palette_of_rgb", png_of(21, 13, 8, 2, False, [palette])
    yield "palette_of_gray", png_of(21, 13, 8, 0, False, [palette])
    yield "palette_behind_pixels", png_of(21, 13, 8, 3, False, after=[palette])
    yield "trns_before_palette", png_of(21, 13, 8, 3, False, [png_chunk(b"tRNS", b"\0\x80"), palette])
    ihdr, iend = base[8:33], png_chunk(b"IEND", b"")
    data = zlib.decompress(base[base.find(b"IDAT") + 4 : -16])

    def file(*chunks):
        return SIGNATURE + ihdr + b"".join(chunks)

    packed = zlib.compress(data, 9)
    idat = png_chunk(b"IDAT", packed)
    for name, chunks in {
        "no_iend": [idat],
        "no_crc_of_iend": [idat, iend[:-4]],
        "crc_idat": [png_chunk(b"IDAT", packed, 5), iend],
        "crc_iend": [idat, png_chunk(b"IEND", b"", 5)],
        "crc_text": [png_chunk(b"tEXt", b"a\0b", 5), idat, iend],
        "crc_text_behind": [idat, png_chunk(b"tEXt", b"a\0b", 5), iend],
        "crc_unknown": [png_chunk(b"abCd", b"xyz", 5), idat, iend],
        "crc_gamma": [png_chunk(b"gAMA", b"\0\1\x86\xa0", 5), idat, iend],
        "crc_time": [png_chunk(b"tIME", b"\7\7\7\7\7\7\7", 5), idat, iend],
        "unknown_critical": [png_chunk(b"ABCD", b"xyz"), idat, iend],
        "unknown_name": [png_chunk(b"a-Cd", b"xyz"), idat, iend],
        "unknown_name_behind": [idat, png_chunk(b"a-Cd", b"xyz"), iend],
        "digits_name": [png_chunk(b"a1_d", b"xyz"), idat, iend],
        "idat_split": [png_chunk(b"IDAT", packed[at : at + 7]) for at in range(0, len(packed), 7)] + [iend],
        "idat_split_bytes": [png_chunk(b"IDAT", packed[at : at + 1]) for at in range(len(packed))] + [iend],
        "idat_empty_first": [png_chunk(b"IDAT", b""), idat, iend],
        "idat_empty_last": [idat, png_chunk(b"IDAT", b""), iend],
        "idat_interrupted": [png_chunk(b"IDAT", packed[:400]), png_chunk(b"tEXt", b"a\0b"), png_chunk(b"IDAT", packed[400:]), iend],
        "idat_crc_in_between": [png_chunk(b"IDAT", packed[:400], 5), png_chunk(b"IDAT", packed[400:], 6), iend],
        "idat_cut": [png_chunk(b"IDAT", packed[:400]), iend],
        "idat_cut_end": [png_chunk(b"IDAT", packed[:-1]), iend],
        "idat_cut_adler": [png_chunk(b"IDAT", packed[:-4]), iend],
        "idat_wrong_adler": [png_chunk(b"IDAT", packed[:-2] + b"\0\0"), iend],
        "idat_wrong_adler_split": [png_chunk(b"IDAT", packed[:-4]), png_chunk(b"IDAT", b"abcd"), iend],
        "idat_long": [png_chunk(b"IDAT", packed + b"trailing"), iend],
        "idat_rows_missing": [png_chunk(b"IDAT", zlib.compress(data[: 88 * 12], 9)), iend],
        "idat_rows_missing_stored": [png_chunk(b"IDAT", zlib.compress(data[: 88 * 12], 0)), iend],
        "idat_row_cut": [png_chunk(b"IDAT", zlib.compress(data[: 88 * 12 + 5], 9)), iend],
        "idat_rows_too_many": [png_chunk(b"IDAT", zlib.compress(data + bytes(300), 9)), iend],
        "idat_bad_filter": [png_chunk(b"IDAT", zlib.compress(data[: 88 * 3] + b"\7" + data[88 * 3 + 1 :], 9)), iend],
        "idat_raw_deflate": [png_chunk(b"IDAT", packed[2:-4]), iend],
        "idat_gzip_header": [png_chunk(b"IDAT", b"\x1f\x8b" + packed), iend],
        "idat_window": [png_chunk(b"IDAT", b"\x18\x19" + packed[2:]), iend],
        "idat_bad_header": [png_chunk(b"IDAT", b"\x78\x00" + packed[2:]), iend],
        "idat_dictionary": [png_chunk(b"IDAT", b"\x78\x20" + packed[2:]), iend],
        "stored": [png_chunk(b"IDAT", zlib.compress(data, 0)), iend],
        "no_pixels": [iend],
        "empty": [],
        "text_long": [png_chunk(b"tEXt", b"a\0" + b"x" * 5000), idat, iend],
        "text_bomb": [png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(3 << 20))), idat, iend],
        "text_bomb_behind": [idat, png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(3 << 20))), iend],
        "text_method": [png_chunk(b"zTXt", b"a\0\1" + zlib.compress(b"x")), idat, iend],
        "text_method_behind": [idat, png_chunk(b"zTXt", b"a\0\1" + zlib.compress(b"x")), iend],
        "text_damaged": [png_chunk(b"zTXt", b"a\0\0abcdefgh"), idat, iend],
        "text_international_bomb": [png_chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(3 << 20))), idat, iend],
        "icc_method": [png_chunk(b"iCCP", b"a\0\1abc"), idat, iend],
        "icc_damaged": [png_chunk(b"iCCP", b"a\0\0abc"), idat, iend],
        "icc_short": [png_chunk(b"iCCP", b"a\0"), idat, iend],
        "icc_empty": [png_chunk(b"iCCP", b""), idat, iend],
        "icc_bomb": [png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(3 << 20))), idat, iend],
        "gamma_short": [png_chunk(b"gAMA", b"\0"), idat, iend],
        "gamma_short_behind": [idat, png_chunk(b"gAMA", b"\0"), iend],
        "chroma_short": [png_chunk(b"cHRM", b"\0"), idat, iend],
        "srgb_empty": [png_chunk(b"sRGB", b""), idat, iend],
        "density_short": [png_chunk(b"pHYs", b"\0"), idat, iend],
        "density": [png_chunk(b"pHYs", b"\0\0\1\0\0\0\1\0\1"), idat, iend],
        "exif_6": [png_chunk(b"eXIf", exif(6)[6:]), idat, iend],
        "exif_prefixed": [png_chunk(b"eXIf", exif(6)), idat, iend],
        "exif_twice": [png_chunk(b"eXIf", exif(6)[6:]), png_chunk(b"eXIf", exif(8)[6:]), idat, iend],
        "exif_behind": [idat, png_chunk(b"eXIf", exif(3)[6:]), iend],
        "exif_damaged": [png_chunk(b"eXIf", b"II*\0"), idat, iend],
        "exif_text": [png_chunk(b"tEXt", b"exif\0" + exif(6)), idat, iend],
        "exif_raw_profile": [png_chunk(b"tEXt", b"Raw profile type exif\0\nexif\n      38\n" + exif(6).hex().encode() + b"\n"), idat, iend],
        "xmp_6": [png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation=\"6\"/>"), idat, iend],
        "xmp_compressed": [png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"<x tiff:Orientation=\"6\"/>")), idat, iend],
        "header_twice": [ihdr, idat, iend],
        "header_twice_other": [png_chunk(b"IHDR", struct.pack(">IIBBBBB", 10, 9, 8, 2, 0, 0, 0)), idat, iend],
        "length_too_large": [b"\x7f\xff\xff\xfftEXtabc"],
        "trailing": [idat, iend, b"trailing"],
        "cgbi": [png_chunk(b"CgBI", b"\0\0\0\0"), png_chunk(b"IDAT", packed[2:-4]), iend],
    }.items():
        yield name, file(*chunks)
    long_header = SIGNATURE + png_chunk(b"IHDR", ihdr[8:21] + b"ab") + idat + iend
    yield "header_long", long_header
    yield "header_short", SIGNATURE + png_chunk(b"IHDR", ihdr[8:20]) + idat + iend
    yield "header_crc", SIGNATURE + png_chunk(b"IHDR", ihdr[8:21], 5) + idat + iend
    yield "header_behind_text", SIGNATURE + png_chunk(b"tEXt", b"a\0b") + ihdr + idat + iend
    yield "header_missing", SIGNATURE + idat + iend
    yield "width_0", SIGNATURE + png_chunk(b"IHDR", bytes(4) + ihdr[12:21]) + idat + iend
    yield "height_0", SIGNATURE + png_chunk(b"IHDR", ihdr[8:12] + bytes(4) + ihdr[16:21]) + idat + iend
    yield "trns_of_alpha", png_of(21, 13, 8, 6, False, [png_chunk(b"tRNS", b"\0\0")])
    frames = [small, small.rotate(180), small.transpose(Image.FLIP_LEFT_RIGHT)]
    yield "apng", encoded(small, "PNG", save_all=True, append_images=frames[1:])
    yield "apng_default", encoded(small, "PNG", save_all=True, append_images=frames[1:], default_image=True)
    yield "apng_gray", encoded(small.convert("L"), "PNG", save_all=True, append_images=[frames[1].convert("L")])
    alpha = small.convert("RGBA")
    yield "apng_alpha", encoded(alpha, "PNG", save_all=True, append_images=[alpha.rotate(90)], disposal=1, blend=1)

    def fctl(seq, w, h, x, y, dispose=0, blend=0):
        return png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", seq, w, h, x, y, 1, 10, dispose, blend))

    actl = png_chunk(b"acTL", struct.pack(">II", 1, 0))
    part = zlib.compress(bytes(b"\0" + b"\x50\x90\xc0" * 10) * 7)
    yield "apng_first_in_part", file(actl, fctl(0, 10, 7, 3, 4), png_chunk(b"IDAT", part), iend)
    yield "apng_first_in_part_2", file(png_chunk(b"acTL", struct.pack(">II", 2, 0)), fctl(0, 10, 7, 3, 4), png_chunk(b"IDAT", part), fctl(1, 10, 7, 0, 0), png_chunk(b"fdAT", b"\0\0\0\2" + part), iend)
    yield "apng_first_behind", file(actl, idat, fctl(0, 10, 7, 3, 4), png_chunk(b"fdAT", b"\0\0\0\1" + part), iend)
    yield "apng_fdat_first", file(actl, fctl(0, 29, 19, 0, 0), png_chunk(b"fdAT", b"\0\0\0\1" + packed), iend)
    yield "apng_outside", file(actl, fctl(0, 30, 7, 3, 4), idat, iend)
    yield "apng_sequence", file(actl, fctl(1, 29, 19, 0, 0), idat, iend)
    yield "apng_frames_0", file(png_chunk(b"acTL", bytes(8)), fctl(0, 29, 19, 0, 0), idat, iend)
    yield "apng_short_control", file(png_chunk(b"acTL", bytes(4)), idat, iend)
    yield "apng_short_frame", file(actl, png_chunk(b"fcTL", bytes(9)), idat, iend)
    yield "apng_control_only", file(fctl(0, 10, 7, 3, 4), png_chunk(b"IDAT", part), iend)
    yield "apng_control_twice", file(actl, actl, fctl(0, 29, 19, 0, 0), idat, iend)
    yield "apng_blend_first", file(actl, fctl(0, 29, 19, 0, 0, 2, 1), idat, iend)
    yield "gray_alpha_16", png_of(21, 13, 16, 4, False)
    yield "quantized", encoded(small.quantize(40), "PNG")
    yield "quantized_4", encoded(small.quantize(4), "PNG", bits=2)
    yield "bilevel", encoded(small.convert("1"), "PNG")


def gif_lzw(indices, bits, early_end=False):
    """Codes without a table: clear codes in between."""
    out, buffer, count = bytearray(), 0, 0

    def put(code):
        nonlocal buffer, count
        buffer |= code << count
        count += bits + 1
        while count >= 8:
            out.append(buffer & 255)
            buffer >>= 8
            count -= 8

    for number, index in enumerate(indices):
        if number % max(1, (1 << bits) - 2) == 0:
            put(1 << bits)
        put(index)
    if not early_end:
        put((1 << bits) + 1)
    if count:
        out.append(buffer & 255)
    return bytes(out)


def gif_blocks(data, size=255):
    return b"".join(bytes([len(data[at : at + size])]) + data[at : at + size] for at in range(0, len(data), size)) + b"\0"


def gifs():
    small = PHOTO.resize((23, 17))
    gray = small.convert("L")
    base = encoded(small.quantize(64), "GIF")
    yield "palette", base
    for name, image, options in (
        ("interlaced", small.quantize(100), {"interlace": True}),
        ("plain", small.quantize(200), {"interlace": False}),
        ("gray", gray, {}),
        ("rgb", small, {}),
        ("bilevel", small.convert("1"), {}),
        ("two", small.quantize(2), {}),
        ("transparent", small.quantize(16), {"transparency": 3}),
        ("comment", small.quantize(16), {"comment": b"a comment " * 50}),
        ("animated", small.quantize(16), {"save_all": True, "append_images": [gray, small.rotate(90)], "loop": 0}),
        ("animated_disposal", small.quantize(16), {"save_all": True, "append_images": [small.rotate(90)], "disposal": 2}),
        ("animated_disposal_3", small.quantize(16), {"save_all": True, "append_images": [small.rotate(90)], "disposal": 3, "transparency": 1}),
        ("rgba", small.convert("RGBA"), {}),
    ):
        yield name, encoded(image, "GIF", **options)
    width, height, bits = 11, 7, 4
    palette = bytes(RNG.randrange(256) for _ in range(48))
    local = bytes(RNG.randrange(256) for _ in range(24))
    indices = [(x * 3 + y * 5) % 16 for y in range(height) for x in range(width)]
    lzw = bytes([bits]) + gif_blocks(gif_lzw(indices, bits))

    def file(*parts, screen=(width, height), flags=0xB3, background=5, colors=palette):
        return b"GIF89a" + struct.pack("<HHBBB", *screen, flags, background, 0) + (colors if flags & 128 else b"") + b"".join(parts)

    def frame(x=0, y=0, w=width, h=height, flags=0, colors=b"", data=lzw):
        return b"," + struct.pack("<HHHHB", x, y, w, h, flags) + colors + data

    control = lambda flags, index: b"!\xf9\4" + bytes([flags, 0, 0, index]) + b"\0"
    end = b";"
    for name, data in {
        "made": file(frame(), end),
        "no_end": file(frame()),
        "trailing": file(frame(), end, b"trailing"),
        "no_palette": file(frame(), end, flags=0x33),
        "no_palette_transparent": file(control(1, 9), frame(w=6, h=5, data=bytes([4]) + gif_blocks(gif_lzw(indices[:30], 4))), end, flags=0x33),
        "local_palette": file(frame(flags=0x82, colors=local), end),
        "local_palette_only": file(frame(flags=0x82, colors=local), end, flags=0x33),
        "local_palette_gray": file(frame(flags=0x83, colors=bytes(v for i in range(16) for v in (i, i, i))), end),
        "global_palette_gray": file(frame(), end, colors=bytes(v for i in range(16) for v in (i, i, i))),
        "global_palette_small": file(frame(), end, flags=0xB1, colors=palette[:12]),
        "global_palette_cut": file(flags=0xB3, colors=palette[:20]),
        "nuls_before": file(b"\0\0\0", frame(), end),
        "nuls_after_control": file(control(1, 2), b"\0\0", frame(), end),
        "junk_before": file(b"xyz", frame(), end),
        "end_before": file(end, frame(), end),
        "end_after_control": file(control(1, 2), end, frame(), end),
        "unknown_extension": file(b"!\x77\3abc\2de\0", frame(), end),
        "unknown_extension_empty": file(b"!\x77\0", frame(), end),
        "extension_cut": file(b"!\x77\3ab"),
        "plain_text": file(b"!\x01\x0c" + bytes(12) + b"\5hello\0", frame(), end),
        "application": file(b"!\xff\x0bNETSCAPE2.0\3\1\0\0\0", frame(), end),
        "application_short": file(b"!\xff\x0bNETSCAPE2.0\1\1\0", frame(), end),
        "comment_text": file(b"!\xfe\5hello\0", frame(), end),
        "comment_empty": file(b"!\xfe\0", frame(), end),
        "control_short": file(b"!\xf9\1\1\0", frame(), end),
        "control_empty": file(b"!\xf9\0", frame(), end),
        "control_two_bytes": file(b"!\xf9\3\0\1\1\0", frame(), end),
        "control_twice": file(control(1, 2), control(0, 7), frame(), end),
        "control_twice_both": file(control(1, 2), control(1, 7), frame(), end),
        "transparent_made": file(control(1, 3), frame(), end),
        "transparent_inside": file(control(1, 3), frame(2, 1, 5, 4, data=bytes([4]) + gif_blocks(gif_lzw(indices[:20], 4))), end),
        "transparent_beyond": file(control(1, 200), frame(2, 1, 5, 4, data=bytes([4]) + gif_blocks(gif_lzw(indices[:20], 4))), end),
        "inside": file(frame(2, 1, 5, 4, data=bytes([4]) + gif_blocks(gif_lzw(indices[:20], 4))), end),
        "outside": file(frame(5, 5), end),
        "outside_transparent": file(control(1, 3), frame(5, 5), end),
        "outside_disposal": file(control(9, 3), frame(5, 5), end),
        "screen_0": file(frame(), end, screen=(0, 0)),
        "screen_0_wide": file(frame(), end, screen=(20, 0)),
        "frame_0": file(frame(w=0, h=0), end),
        "frame_wide_0": file(frame(w=5, h=0), end),
        "frame_0_high": file(frame(w=0, h=5), end),
        "interlaced_made": file(frame(flags=0x40), end),
        "interlaced_1_row": file(frame(h=1, flags=0x40, data=bytes([4]) + gif_blocks(gif_lzw(indices[:11], 4))), end),
        "interlaced_3_rows": file(frame(h=3, flags=0x40, data=bytes([4]) + gif_blocks(gif_lzw(indices[:33], 4))), end),
        "short_end": file(frame(data=bytes([4]) + gif_blocks(gif_lzw(indices[:40], 4))), end),
        "short_no_end": file(frame(data=bytes([4]) + gif_blocks(gif_lzw(indices[:40], 4, True))), end),
        "no_end_code": file(frame(data=bytes([4]) + gif_blocks(gif_lzw(indices, 4, True))), end),
        "long": file(frame(data=bytes([4]) + gif_blocks(gif_lzw(indices + indices, 4))), end),
        "no_terminator": file(frame(data=bytes([4]) + gif_blocks(gif_lzw(indices, 4))[:-1]), end),
        "no_terminator_no_end": file(frame(data=bytes([4]) + gif_blocks(gif_lzw(indices, 4))[:-1])),
        "blocks_of_one": file(frame(data=bytes([4]) + gif_blocks(gif_lzw(indices, 4), 1)), end),
        "block_empty_inside": file(frame(data=bytes([4]) + gif_blocks(gif_lzw(indices, 4)[:10])[:-1] + b"\0" + gif_blocks(gif_lzw(indices, 4)[10:])), end),
        "no_clear": file(frame(data=bytes([4]) + gif_blocks(bytes([0x21, 0x84, 0x10] * 20))), end),
        "code_beyond": file(frame(data=bytes([4]) + gif_blocks(bytes([0xF0, 0xFF, 0xFF] * 20))), end),
        "no_data": file(frame(data=bytes([4]) + b"\0"), end),
        "no_blocks": file(frame(data=bytes([4]))),
        "no_size": file(frame(data=b"")),
        "no_frame": file(end),
        "no_frame_no_end": file(),
        "two_frames": file(frame(), frame(flags=0x82, colors=local), end),
        "version_87": b"GIF87a" + file(frame(), end)[6:],
        "version_88": b"GIF88a" + file(frame(), end)[6:],
        "version_89b": b"GIF89b" + file(frame(), end)[6:],
        **{f"code_size_{size}": file(frame(data=bytes([size]) + gif_blocks(gif_lzw([i % max(1, 1 << min(size, 4)) for i in indices], size) if 0 < size < 12 else bytes([1, 2, 3] * 20))), end) for size in (0, 1, 2, 3, 5, 7, 8, 9, 11, 12, 13, 255)},
    }.items():
        yield name, data


def webp_chunk(kind, data):
    return kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def webp_file(*chunks, size=None):
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


def webp_chunks(data):
    at, found = 12, []
    while at + 8 <= len(data):
        length = struct.unpack("<I", data[at + 4 : at + 8])[0]
        found.append((data[at : at + 4], data[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    return found


def webps():
    small = PHOTO.resize((33, 22))
    alpha = np.asarray(small.convert("L").resize((33, 22)))
    rgba = Image.fromarray(np.dstack([np.asarray(small), alpha]), "RGBA")
    lossy, lossless = encoded(small, "WEBP", quality=70), encoded(small, "WEBP", lossless=True)
    yield "lossy", lossy
    yield "lossless", lossless
    for name, image, options in (
        ("lossy_low", small, {"quality": 2}),
        ("lossy_high", small, {"quality": 100, "method": 6}),
        ("lossy_alpha", rgba, {"quality": 60}),
        ("lossy_alpha_low", rgba, {"quality": 60, "alpha_quality": 20}),
        ("lossless_alpha", rgba, {"lossless": True}),
        ("lossless_exact", rgba, {"lossless": True, "exact": True}),
        ("gray", small.convert("L"), {"quality": 60}),
        ("palette", small.quantize(7), {"lossless": True}),
        ("palette_2", small.quantize(2), {"lossless": True}),
        ("palette_200", small.quantize(200), {"lossless": True}),
        ("exif_6", small, {"quality": 60, "exif": exif(6)[6:]}),
        ("exif_prefixed", small, {"quality": 60, "exif": exif(8)}),
        ("icc", small, {"quality": 60, "icc_profile": b"abcd" * 30}),
        ("xmp_6", small, {"quality": 60, "xmp": b"<x tiff:Orientation=\"6\"/>"}),
        ("animated", small, {"save_all": True, "append_images": [small.rotate(180)], "quality": 60}),
        ("animated_alpha", rgba, {"save_all": True, "append_images": [rgba.rotate(180)], "quality": 60}),
        ("animated_lossless", rgba, {"save_all": True, "append_images": [rgba.rotate(180)], "lossless": True}),
        ("animated_background", rgba, {"save_all": True, "append_images": [rgba.rotate(90)], "lossless": True, "background": (9, 99, 199, 255)}),
        ("one_pixel", small.crop((0, 0, 1, 1)), {"quality": 60}),
        ("odd", small.crop((0, 0, 17, 15)), {"quality": 60}),
        ("wide", small.resize((200, 3)), {"quality": 60}),
    ):
        yield name, encoded(image, "WEBP", **options)
    vp8, vp8l = webp_chunks(lossy)[0], webp_chunks(lossless)[0]
    sides = struct.pack("<I", 32)[:3] + struct.pack("<I", 21)[:3]

    def extended(flags, *chunks, sides=sides):
        return webp_file(webp_chunk(b"VP8X", bytes([flags, 0, 0, 0]) + sides), *(webp_chunk(*chunk) for chunk in chunks))

    tags = exif(6)[6:]
    alpha_chunk = next(chunk for chunk in webp_chunks(encoded(rgba, "WEBP", quality=60)) if chunk[0] == b"ALPH")
    for name, data in {
        "extended": extended(0, vp8),
        "extended_lossless": extended(0, vp8l),
        "extended_lossless_alpha_flag": extended(16, vp8l),
        "flag_exif_missing": extended(8, vp8),
        "flag_xmp_missing": extended(4, vp8),
        "flag_icc_missing": extended(32, vp8),
        "flag_alpha_missing": extended(16, vp8),
        "flag_animation_missing": extended(2, vp8),
        "flags_all": extended(0xFF, vp8),
        "exif_without_flag": extended(0, vp8, (b"EXIF", tags)),
        "exif_with_flag": extended(8, vp8, (b"EXIF", tags)),
        "exif_first": extended(8, (b"EXIF", tags), vp8),
        "exif_spelled": extended(8, vp8, (b"Exif", tags)),
        "exif_spelled_and_right": extended(8, vp8, (b"Exif", exif(3)[6:]), (b"EXIF", tags)),
        "exif_twice": extended(8, vp8, (b"EXIF", exif(3)[6:]), (b"EXIF", tags)),
        "exif_empty": extended(8, vp8, (b"EXIF", b"")),
        "exif_damaged": extended(8, vp8, (b"EXIF", b"II*\0\xff")),
        "exif_behind_simple": webp_file(webp_chunk(*vp8), webp_chunk(b"EXIF", tags)),
        "xmp_without_flag": extended(0, vp8, (b"XMP ", b"<x tiff:Orientation=\"6\"/>")),
        "icc_without_flag": extended(0, (b"ICCP", b"abc"), vp8),
        "icc_behind": extended(32, vp8, (b"ICCP", b"abc")),
        "alpha": extended(16, alpha_chunk, vp8),
        "alpha_without_flag": extended(0, alpha_chunk, vp8),
        "alpha_behind": extended(16, vp8, alpha_chunk),
        "alpha_twice": extended(16, alpha_chunk, alpha_chunk, vp8),
        "alpha_of_lossless": extended(16, alpha_chunk, vp8l),
        "alpha_empty": extended(16, (b"ALPH", b""), vp8),
        "alpha_damaged": extended(16, (b"ALPH", b"\1abc"), vp8),
        "alpha_raw_short": extended(16, (b"ALPH", b"\0abc"), vp8),
        "alpha_raw": extended(16, (b"ALPH", b"\0" + alpha.tobytes()), vp8),
        "alpha_filtered": extended(16, (b"ALPH", b"\4" + alpha.tobytes()), vp8),
        "alpha_reserved": extended(16, (b"ALPH", b"\xc0" + alpha.tobytes()), vp8),
        "unknown_chunk": extended(0, (b"abcd", b"xyz"), vp8),
        "unknown_chunk_simple": webp_file(webp_chunk(b"abcd", b"xyz"), webp_chunk(*vp8)),
        "unknown_chunk_behind": webp_file(webp_chunk(*vp8), webp_chunk(b"abcd", b"xyz")),
        "two_images": webp_file(webp_chunk(*vp8), webp_chunk(*vp8)),
        "two_images_extended": extended(0, vp8, vp8l),
        "canvas_larger": extended(0, vp8, sides=struct.pack("<I", 40)[:3] + struct.pack("<I", 30)[:3]),
        "canvas_smaller": extended(0, vp8, sides=struct.pack("<I", 20)[:3] + struct.pack("<I", 10)[:3]),
        "canvas_huge": extended(0, vp8, sides=b"\xff" * 6),
        "size_short": webp_file(webp_chunk(*vp8), size=len(lossy) - 20),
        "size_1_short": webp_file(webp_chunk(*vp8), size=len(lossy) - 9),
        "size_long": webp_file(webp_chunk(*vp8), size=len(lossy) + 40),
        "size_0": webp_file(webp_chunk(*vp8), size=0),
        "size_max": webp_file(webp_chunk(*vp8), size=0xFFFFFFFF),
        "size_odd": webp_file(webp_chunk(*vp8), size=len(lossy) - 7),
        "trailing": lossy + b"trailing",
        "trailing_1": lossy + b"t",
        "trailing_extended": extended(0, vp8) + b"trailing",
        "cut": lossy[:-30],
        "cut_lossless": lossless[:-30],
        "cut_1": lossy[:-1],
        "cut_extended": extended(0, vp8)[:-30],
        "no_padding": webp_file(b"VP8 " + struct.pack("<I", len(vp8[1]) - len(vp8[1]) % 2 - 1) + vp8[1][: len(vp8[1]) - len(vp8[1]) % 2 - 1]),
        "no_image": extended(0),
        "raw_vp8": vp8[1],
        "partition_short": webp_file(webp_chunk(b"VP8 ", vp8[1][:-40])),
        "partition_long": webp_file(webp_chunk(b"VP8 ", vp8[1] + b"more" * 5)),
        "interframe": webp_file(webp_chunk(b"VP8 ", bytes([vp8[1][0] | 1]) + vp8[1][1:])),
        "invisible": webp_file(webp_chunk(b"VP8 ", bytes([vp8[1][0] & ~16]) + vp8[1][1:])),
        "scaled": webp_file(webp_chunk(b"VP8 ", vp8[1][:7] + bytes([vp8[1][7] | 0x40]) + vp8[1][8:])),
        "lossless_version": webp_file(webp_chunk(b"VP8L", vp8l[1][:4] + bytes([vp8l[1][4] | 0xE0]) + vp8l[1][5:])),
        "lossless_alpha_bit": webp_file(webp_chunk(b"VP8L", vp8l[1][:4] + bytes([vp8l[1][4] ^ 0x10]) + vp8l[1][5:])),
    }.items():
        yield name, data
    for profile in (1, 2, 3):
        yield f"profile_{profile}", webp_file(webp_chunk(b"VP8 ", bytes([vp8[1][0] & ~14 | profile << 1]) + vp8[1][1:]))

    def frame(x, y, w, h, flags, *chunks):
        head = b"".join(struct.pack("<I", v)[:3] for v in (x // 2, y // 2, w - 1, h - 1, 100)) + bytes([flags])
        return (b"ANMF", head + b"".join(webp_chunk(*chunk) for chunk in chunks))

    anim = (b"ANIM", b"\x10\x80\xf0\xff\0\0")
    large = struct.pack("<I", 49)[:3] + struct.pack("<I", 39)[:3]
    yield "frame_inside", extended(2, anim, frame(6, 8, 33, 22, 0, vp8), sides=large)
    yield "frame_inside_no_blend", extended(2, anim, frame(6, 8, 33, 22, 3, vp8), sides=large)
    yield "frame_inside_alpha", extended(18, anim, frame(6, 8, 33, 22, 0, alpha_chunk, vp8), sides=large)
    yield "frame_inside_lossless", extended(18, anim, frame(6, 8, 33, 22, 0, vp8l), sides=large)
    yield "frame_outside", extended(2, anim, frame(30, 30, 33, 22, 0, vp8), sides=large)
    yield "frame_size_differs", extended(2, anim, frame(6, 8, 30, 20, 0, vp8), sides=large)
    yield "frame_without_animation", extended(2, frame(6, 8, 33, 22, 0, vp8), sides=large)
    yield "frame_damaged_second", extended(2, anim, frame(0, 0, 33, 22, 0, vp8), frame(0, 0, 33, 22, 0, (b"VP8 ", b"abc")), sides=large)
    yield "frame_damaged_first", extended(2, anim, frame(0, 0, 33, 22, 0, (b"VP8 ", vp8[1][:40])), frame(0, 0, 33, 22, 0, vp8), sides=large)
    yield "frame_none", extended(2, anim, sides=large)
    yield "frame_exif", extended(10, anim, frame(6, 8, 33, 22, 0, vp8), (b"EXIF", tags), sides=large)


def bmp_of(width, height, bits, header, data, compression=0, palette=b"", masks=(), colors=0, top=False, offset=None, planes=1):
    if header == 12:
        info = struct.pack("<IHHHH", 12, width, height, planes, bits)
    else:
        info = struct.pack("<IiiHHIIiiII", header, width, -height if top else height, planes, bits, compression, len(data), 2835, 2835, colors, 0)
        rest = b"".join(struct.pack("<I", mask) for mask in masks)
        if header > 40:
            info += (rest + bytes(200))[: header - 40]
        else:
            info += rest
    at = 14 + len(info) + len(palette) if offset is None else offset
    return b"BM" + struct.pack("<IHHI", at + len(data), 0, 0, at) + info + palette + data


def bmps():
    small = PHOTO.resize((19, 11))
    width, height = small.size
    rgb = np.asarray(small)
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        yield f"mode_{mode}", encoded(small.convert(mode), "BMP")
    values = np.asarray(small.convert("L"))

    def rows(bits, source):
        """Rows of packed numbers, bottom up, padded."""
        out = b""
        for row in source[::-1]:
            if bits < 8:
                packed, per = bytearray((width * bits + 7) // 8), 8 // bits
                for x, value in enumerate(row):
                    packed[x // per] |= (int(value) & ((1 << bits) - 1)) << (8 - bits - bits * (x % per))
                row = bytes(packed)
            else:
                row = b"".join(int(value).to_bytes(bits // 8, "little") for value in row)
            out += row + bytes(-len(row) % 4)
        return out

    packed24 = rgb[..., 0].astype(int) << 16 | rgb[..., 1].astype(int) << 8 | rgb[..., 2]
    r5, g5, b5 = (rgb[..., channel].astype(int) >> 3 for channel in range(3))
    g6 = rgb[..., 1].astype(int) >> 2
    rgb555, rgb565 = r5 << 10 | g5 << 5 | b5, r5 << 11 | g6 << 5 | b5
    palettes = {bits: bytes(RNG.randrange(256) for _ in range(4 << bits)) for bits in (1, 4, 8)}
    for header in (12, 16, 40, 52, 56, 64, 108, 124, 36, 128):
        for bits in (1, 4, 8, 16, 24, 32):
            if header == 12 and bits in (16, 32) and False:
                continue
            data = {1: rows(1, values >> 7), 4: rows(4, values >> 4), 8: rows(8, values), 16: rows(16, rgb555), 24: rows(24, packed24), 32: rows(32, packed24 | 0x7F000000)}[bits]
            palette = palettes.get(bits, b"")
            if header == 12:
                palette = b"".join(palette[at : at + 3] for at in range(0, len(palette), 4))
            if header == 16:
                info = struct.pack("<IIIHH", 16, width, height, 1, bits)
                yield f"header_{header}_{bits}", b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + 16 + len(palette)) + info + palette + data
                continue
            yield f"header_{header}_{bits}", bmp_of(width, height, bits, header, data, palette=palette)
    for bits in (2, 3, 0, 5, 15, 48, 64):
        yield f"bits_{bits}", bmp_of(width, height, bits, 40, rows(24, packed24) * 3)
    fields = {
        "565": (16, rgb565, (0xF800, 0x7E0, 0x1F)),
        "555": (16, rgb555, (0x7C00, 0x3E0, 0x1F)),
        "444": (16, rgb555, (0xF00, 0xF0, 0xF)),
        "bgr565": (16, rgb565, (0x1F, 0x7E0, 0xF800)),
        "bgrx": (32, packed24, (0xFF0000, 0xFF00, 0xFF)),
        "xbgr": (32, packed24 << 8 | 0x11, (0xFF000000, 0xFF0000, 0xFF00)),
        "bgxr": (32, packed24, (0xFF000000, 0xFF00, 0xFF)),
        "rgbx": (32, packed24, (0xFF, 0xFF00, 0xFF0000)),
        "24": (24, packed24, (0xFF0000, 0xFF00, 0xFF)),
        "zero": (32, packed24, (0, 0, 0)),
        "1010102": (32, packed24, (0x3FF00000, 0xFFC00, 0x3FF)),
        "zero16": (16, rgb565, (0, 0, 0)),
    }
    for name, (bits, source, masks) in fields.items():
        for header in (40, 52, 56, 108, 124):
            alphas = (0, 0xFF000000, 0xFF, 0xFF0000) if header >= 56 and bits == 32 else (0,)
            for alpha in alphas:
                both = (*masks, alpha) if header > 52 else masks
                yield f"fields_{name}_{header}_{alpha:x}", bmp_of(width, height, bits, header, rows(bits, source), 3, masks=both)
    colors8 = palettes[8]
    plain8 = bmp_of(width, height, 8, 40, rows(8, values), palette=colors8)
    yield "top_down", bmp_of(width, height, 24, 40, rows(24, packed24), top=True)
    yield "top_down_565", bmp_of(width, height, 16, 40, rows(16, rgb565), 3, masks=(0xF800, 0x7E0, 0x1F), top=True)
    yield "few_colors", bmp_of(width, height, 8, 40, rows(8, values // 32), palette=colors8[:32], colors=8)
    yield "few_colors_used_more", bmp_of(width, height, 8, 40, rows(8, values), palette=colors8[:32], colors=8)
    yield "colors_too_many", bmp_of(width, height, 4, 40, rows(4, values >> 4), palette=colors8, colors=300)
    yield "colors_1", bmp_of(width, height, 1, 40, rows(1, values >> 7), palette=b"\0\0\0\0", colors=1)
    yield "colors_huge", bmp_of(width, height, 8, 40, rows(8, values), palette=colors8, colors=1 << 20)
    yield "gray_palette", bmp_of(width, height, 8, 40, rows(8, values), palette=bytes(v for i in range(256) for v in (i, i, i, 0)))
    yield "gray_palette_inverted", bmp_of(width, height, 8, 40, rows(8, values), palette=bytes(v for i in range(256) for v in (255 - i,) * 3 + (0,)))
    yield "gray_palette_4", bmp_of(width, height, 4, 40, rows(4, values >> 4), palette=bytes(v for i in range(16) for v in (i, i, i, 0)))
    yield "gray_palette_16", bmp_of(width, height, 4, 40, rows(4, values >> 4), palette=bytes(v for i in range(16) for v in (i * 17,) * 3 + (0,)))
    yield "bilevel_inverted", bmp_of(width, height, 1, 40, rows(1, values >> 7), palette=b"\xff\xff\xff\0\0\0\0\0")
    yield "bilevel_normal", bmp_of(width, height, 1, 40, rows(1, values >> 7), palette=b"\0\0\0\0\xff\xff\xff\0")
    yield "gray_2_of_8", bmp_of(width, height, 8, 40, rows(8, values >> 7), palette=b"\0\0\0\0\xff\xff\xff\0", colors=2)
    yield "offset_0", bmp_of(width, height, 24, 40, rows(24, packed24), offset=0)
    yield "offset_in_palette", bmp_of(width, height, 8, 40, rows(8, values), palette=colors8, offset=54)
    yield "offset_later", bmp_of(width, height, 24, 40, b"\7" * 9 + rows(24, packed24), offset=63)
    yield "offset_beyond", bmp_of(width, height, 24, 40, rows(24, packed24), offset=5000)
    yield "planes_2", bmp_of(width, height, 24, 40, rows(24, packed24), planes=2)
    full = bmp_of(width, height, 24, 40, rows(24, packed24))
    yield "padding_missing", full[: len(full) - (-(3 * width) % 4)]
    yield "padding_part_missing", full[:-1]
    yield "cut", full[:-40]
    yield "cut_padding_4", bmp_of(width, height, 4, 40, rows(4, values >> 4), palette=palettes[4])[:-2]
    yield "trailing", full + b"trailing"
    yield "width_0", bmp_of(0, height, 24, 40, b"")
    yield "height_0", bmp_of(width, 0, 24, 40, b"")
    yield "width_negative", bmp_of(-width, height, 24, 40, rows(24, packed24))
    yield "height_very_negative", full[:22] + struct.pack("<i", -(1 << 25)) + full[26:]
    for compression in (4, 5, 6, 7, 11):
        yield f"compression_{compression}", bmp_of(width, height, 24, 40, rows(24, packed24), compression)

    def rle8(source, end=b"\0\1"):
        out = bytearray()
        for number, row in enumerate(source[::-1]):
            x = 0
            while x < len(row):
                run = 1
                while x + run < len(row) and row[x + run] == row[x]:
                    run += 1
                if run == 1 and x + 4 <= len(row) and number % 2:
                    out += b"\0\4" + bytes(int(v) for v in row[x : x + 4])
                    x += 4
                    continue
                if run == 1 and x + 3 <= len(row) and number % 3 == 1:
                    out += b"\0\3" + bytes(int(v) for v in row[x : x + 3]) + b"\0"
                    x += 3
                    continue
                out += bytes([run, int(row[x])])
                x += run
            out += b"\0\0"
        return bytes(out[:-2]) + end

    quarter = values // 16
    codes = rle8(quarter)
    for name, data in {
        "rle8": codes,
        "rle8_no_end": rle8(quarter, b""),
        "rle8_line_end": rle8(quarter, b"\0\0\0\1"),
        "rle8_cut": codes[:-30],
        "rle8_early_end": codes[:40] + b"\0\1",
        "rle8_delta": codes[:20] + b"\0\0\0\2\3\2" + codes[20:],
        "rle8_delta_only": b"\0\2\5\4\6\7\0\1",
        "rle8_long_run": b"\xff\5" * height,
        "rle8_long_literal": b"\0\x20" + bytes(range(32)) + b"\0\0" + codes,
        "rle8_literal_cut": b"\0\x20" + bytes(10),
    }.items():
        yield name, bmp_of(width, height, 8, 40, data, 1, palette=colors8)
        yield f"{name}_top", bmp_of(width, height, 8, 40, data, 1, palette=colors8, top=True)
    four = b"".join(bytes([width, 16 * (y % 16) + 7]) + b"\0\0" for y in range(height))[:-2] + b"\0\1"
    for name, data in {
        "rle4": four,
        "rle4_literal": b"\0\5\x12\x34\x50\0" + b"\0\0" + four,
        "rle4_literal_2": b"\0\7\x12\x34\x56\x70" + b"\0\0" + four,
        "rle4_cut": four[:20],
        "rle4_delta": b"\5\x12\0\2\2\1" + four,
    }.items():
        yield name, bmp_of(width, height, 4, 40, data, 2, palette=palettes[4])
    yield "rle8_gray", bmp_of(width, height, 8, 40, codes, 1, palette=bytes(v for i in range(256) for v in (i, i, i, 0)))
    yield "rle8_of_24", bmp_of(width, height, 24, 40, codes, 1)
    yield "rle4_of_8", bmp_of(width, height, 8, 40, four, 2, palette=colors8)
    yield "palette_8", plain8


def tiff_of(tags, data, little=True, big=False, next_ifd=0, magic=None):
    """One directory. `tags`: {tag: (type, values)}; offsets of strips count from the start of `data`."""
    order = "<" if little else ">"
    kinds = {1: "B", 2: "B", 3: "H", 4: "I", 5: "II", 6: "b", 7: "B", 8: "h", 9: "i", 11: "f", 12: "d", 16: "Q"}
    count = len(tags)
    head = 16 if big else 8
    ifd = head
    size = (8 + 20 * count + 8) if big else (2 + 12 * count + 4)
    extra_at = ifd + size
    payload = sum(len(values) * struct.calcsize(order + kinds[kind]) + 8 for kind, values in tags.values())
    data_at = extra_at + payload
    entries, extra = b"", b""
    for tag in sorted(tags):
        kind, values = tags[tag]
        if tag in (273, 324):
            values = [value + data_at for value in values]
        packed = b"".join(struct.pack(order + kinds[kind], *(value if isinstance(value, tuple) else (value,))) for value in values)
        inline = 8 if big else 4
        if len(packed) <= inline:
            field = packed + bytes(inline - len(packed))
        else:
            field = struct.pack(order + ("Q" if big else "I"), extra_at + len(extra))
            extra += packed + bytes(len(packed) % 2)
        entries += struct.pack(order + ("HHQ" if big else "HHI"), tag, kind, len(values)) + field
    extra += bytes(payload - len(extra))
    start = (b"II" if little else b"MM") + (struct.pack(order + "HHHQ", 43, 8, 0, ifd) if big else struct.pack(order + "HI", 42, ifd))
    if magic:
        start = magic + start[4:]
    directory = struct.pack(order + ("Q" if big else "H"), count) + entries + struct.pack(order + ("Q" if big else "I"), next_ifd)
    return start + directory + extra + data


def tiffs():
    small = PHOTO.resize((21, 14))
    width, height = small.size
    rgb = np.asarray(small)
    gray = np.asarray(small.convert("L"))
    for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "tiff_deflate", "jpeg"):
        yield f"rgb_by_pillow_{compression}", encoded(small, "TIFF", compression=compression)
    for compression in (None, "tiff_lzw", "jpeg", "packbits"):
        yield f"gray_{compression}", encoded(small.convert("L"), "TIFF", compression=compression)
    bilevel = small.convert("1")
    for compression in (None, "group3", "group4", "tiff_ccitt", "packbits", "tiff_lzw"):
        yield f"bilevel_{compression}", encoded(bilevel, "TIFF", compression=compression)
    for mode in ("P", "LA", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr", "LAB", "RGBX"):
        if mode == "I;16":
            image = Image.fromarray((gray.astype(np.uint16) * 3))
        elif mode == "F":
            image = Image.fromarray(gray.astype(np.float32) * 1.3 - 20)
        elif mode == "I":
            image = Image.fromarray(gray.astype(np.int32) * 2 - 100)
        elif mode == "P":
            image = small.quantize(100)
        elif mode == "LAB":
            from PIL import ImageCms

            image = ImageCms.applyTransform(small, ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"))
        else:
            image = small.convert(mode)
        for compression in (None, "tiff_lzw", "tiff_adobe_deflate") if mode not in ("LAB",) else (None,):
            try:
                yield f"mode_{mode}_{compression}", encoded(image, "TIFF", compression=compression)
            except Exception as error:
                print("tiff", mode, compression, error)
    yield "big", encoded(small, "TIFF", big_tiff=True)
    yield "pages", encoded(small, "TIFF", save_all=True, append_images=[small.rotate(180)])
    for orientation in (3, 5, 6, 8):
        yield f"orientation_{orientation}", encoded(small, "TIFF", tiffinfo={274: orientation}, compression="tiff_lzw")
        yield f"orientation_raw_{orientation}", encoded(small, "TIFF", tiffinfo={274: orientation})

    def file(array, **options):
        out = io.BytesIO()
        tifffile.imwrite(out, array, **{"metadata": None, "software": None, **options})
        return out.getvalue()

    alpha = gray[::-1]
    rgba = np.dstack([rgb, alpha])
    wide = (rgb.astype(np.uint16) << 8) + rgb[::-1]
    photometric = {"photometric": "rgb"}
    for name, options in {
        "tiled": {"tile": (16, 16)},
        "tiled_lzw": {"tile": (16, 16), "compression": "lzw"},
        "tiled_jpeg": {"tile": (16, 16), "compression": "jpeg"},
        "tiled_wide": {"tile": (16, 32), "compression": "zlib"},
        "strips_5": {"rowsperstrip": 5},
        "strips_5_lzw": {"rowsperstrip": 5, "compression": "lzw"},
        "predictor": {"compression": "zlib", "predictor": 2},
        "predictor_lzw": {"compression": "lzw", "predictor": 2, "rowsperstrip": 4},
        "zstd": {"compression": "zstd"},
        "zstd_predictor": {"compression": "zstd", "predictor": 2},
        "lzma": {"compression": "lzma"},
        "lerc": {"compression": "lerc"},
        "jpeg": {"compression": "jpeg"},
        "jpeg_strips": {"compression": "jpeg", "rowsperstrip": 8},
        "jpeg2000": {"compression": "jpeg2000"},
        "jpegxl": {"compression": "jpegxl"},
        "webp": {"compression": "webp"},
        "png": {"compression": "png"},
        "big_endian": {"byteorder": ">"},
        "big_endian_lzw": {"byteorder": ">", "compression": "lzw", "predictor": 2},
        "bigtiff_lzw": {"bigtiff": True, "compression": "lzw"},
        "bigtiff_big_endian": {"bigtiff": True, "byteorder": ">"},
    }.items():
        try:
            yield f"rgb_{name}", file(rgb, **photometric, **options)
        except Exception as error:
            print("tiff", name, error)
    for byteorder in "<>":
        for compression in (None, "lzw"):
            tail = f"{'little' if byteorder == '<' else 'big'}_{compression}"
            both = {"byteorder": byteorder, "compression": compression}
            yield f"rgb16_{tail}", file(wide, **photometric, **both)
            yield f"rgba16_{tail}", file(np.dstack([wide, wide[..., 0]]), extrasamples=["unassalpha"], **photometric, **both)
            yield f"rgba16_associated_{tail}", file(np.dstack([wide, wide[..., 0]]), extrasamples=["assocalpha"], **photometric, **both)
            yield f"gray16_{tail}", file(wide[..., 0], photometric="minisblack", **both)
            yield f"gray16_white_{tail}", file(wide[..., 0], photometric="miniswhite", **both)
            yield f"gray16_signed_{tail}", file(wide[..., 0].astype(np.int16) // 3, photometric="minisblack", **both)
            yield f"gray32_{tail}", file(gray.astype(np.uint32) * 2, photometric="minisblack", **both)
            yield f"gray32_signed_{tail}", file(gray.astype(np.int32) * 2 - 99, photometric="minisblack", **both)
            yield f"float_{tail}", file(gray.astype(np.float32) * 1.37 - 10, photometric="minisblack", **both)
            yield f"float_white_{tail}", file(gray.astype(np.float32) * 1.37 - 10, photometric="miniswhite", **both)
            yield f"double_{tail}", file(gray.astype(np.float64), photometric="minisblack", **both)
            yield f"half_{tail}", file(gray.astype(np.float16), photometric="minisblack", **both)
            yield f"gray8_signed_{tail}", file((gray // 2).astype(np.int8), photometric="minisblack", **both)
            yield f"gray8_white_{tail}", file(gray, photometric="miniswhite", **both)
            yield f"cmyk16_{tail}", file(np.dstack([wide, wide[..., 1]]), photometric="separated", **both)
            yield f"cmyk_{tail}", file(np.dstack([rgb, alpha // 3]), photometric="separated", **both)
            yield f"cmyk_extra_{tail}", file(np.dstack([rgb, alpha // 3, gray]), photometric="separated", extrasamples=["unspecified"], **both)
            yield f"rgb_float_{tail}", file(rgb.astype(np.float32) / 255, **photometric, **both)
    for compression in (None, "lzw", "zlib"):
        for extra in ("unassalpha", "assocalpha", "unspecified"):
            yield f"rgba_{extra}_{compression}", file(rgba, extrasamples=[extra], compression=compression, **photometric)
            yield f"gray_alpha_{extra}_{compression}", file(np.dstack([gray, alpha]), photometric="minisblack", extrasamples=[extra], compression=compression, planarconfig="contig")
        yield f"rgbax_{compression}", file(np.dstack([rgba, gray]), extrasamples=["unassalpha", "unspecified"], compression=compression, **photometric)
        yield f"rgbaxx_associated_{compression}", file(np.dstack([rgba, gray, gray]), extrasamples=["assocalpha", "unspecified", "unspecified"], compression=compression, **photometric)
        yield f"rgbxx_{compression}", file(np.dstack([rgba, gray]), extrasamples=["unspecified", "unspecified"], compression=compression, **photometric)
        yield f"planar_{compression}", file(np.moveaxis(rgb, 2, 0), planarconfig="separate", compression=compression, **photometric)
        yield f"planar_strips_{compression}", file(np.moveaxis(rgb, 2, 0), planarconfig="separate", compression=compression, rowsperstrip=5, **photometric)
        yield f"planar_alpha_{compression}", file(np.moveaxis(rgba, 2, 0), planarconfig="separate", compression=compression, extrasamples=["unassalpha"], **photometric)
        yield f"planar_extra_{compression}", file(np.moveaxis(rgba, 2, 0), planarconfig="separate", compression=compression, extrasamples=["unspecified"], **photometric)
        yield f"planar_tiled_{compression}", file(np.moveaxis(rgb, 2, 0), planarconfig="separate", compression=compression, tile=(16, 16), **photometric)
        yield f"planar_16_{compression}", file(np.moveaxis(wide, 2, 0), planarconfig="separate", compression=compression, **photometric)
        yield f"planar_cmyk_{compression}", file(np.moveaxis(np.dstack([rgb, alpha // 3]), 2, 0), planarconfig="separate", compression=compression, photometric="separated")
    yield "cmyk_jpeg", file(np.dstack([rgb, alpha // 3]), photometric="separated", compression="jpeg")
    yield "gray_jpeg_tiled", file(gray, photometric="minisblack", compression="jpeg", tile=(16, 16))
    yield "predictor_16", file(wide, compression="lzw", predictor=2, **photometric)
    yield "predictor_16_big", file(wide, compression="zlib", predictor=2, byteorder=">", **photometric)
    yield "predictor_float", file(gray.astype(np.float32), compression="zlib", predictor=3, photometric="minisblack")
    yield "predictor_float_big", file(gray.astype(np.float32), compression="zlib", predictor=3, photometric="minisblack", byteorder=">")
    yield "predictor_32", file(gray.astype(np.uint32), compression="zlib", predictor=2, photometric="minisblack")
    yield "predictor_of_raw", file(rgb, **photometric).replace(b"zzzz", b"")
    ycc = np.asarray(small.convert("YCbCr"))
    yield "ycbcr_raw_444", tiff_of({256: (3, [width]), 257: (3, [height]), 258: (3, [8, 8, 8]), 259: (3, [1]), 262: (3, [6]), 273: (4, [0]), 277: (3, [3]), 278: (3, [height]), 279: (4, [ycc.nbytes]), 530: (3, [1, 1])}, ycc.tobytes())
    for subsampling in ("444", "422", "420", "411"):
        across, down = {"444": (1, 1), "422": (2, 1), "420": (2, 2), "411": (4, 1)}[subsampling]
        data = imagecodecs.jpeg8_encode(rgb, subsampling=subsampling, level=80)
        tags = {256: (3, [width]), 257: (3, [height]), 258: (3, [8, 8, 8]), 259: (3, [7]), 262: (3, [6]), 273: (4, [0]), 277: (3, [3]), 278: (3, [height]), 279: (4, [len(data)]), 530: (3, [across, down])}
        yield f"ycbcr_jpeg_{subsampling}", tiff_of(tags, data)
        yield f"ycbcr_jpeg_{subsampling}_unsaid", tiff_of({tag: value for tag, value in tags.items() if tag != 530}, data)
        units = bytearray()
        for y in range(0, height, down):
            for x in range(0, width, across):
                block = [ycc[min(y + j, height - 1)][min(x + i, width - 1)] for j in range(down) for i in range(across)]
                units += bytes(int(pixel[0]) for pixel in block) + bytes([int(block[0][1]), int(block[0][2])])
        for number, compressed in ((1, bytes(units)), (8, zlib.compress(bytes(units))), (5, imagecodecs.lzw_encode(bytes(units)))):
            yield f"ycbcr_{number}_{subsampling}", tiff_of({**tags, 259: (3, [number]), 279: (4, [len(compressed)])}, compressed)
    plain = encoded(small, "JPEG")
    yield "jpeg_said_rgb", tiff_of({256: (3, [width]), 257: (3, [height]), 258: (3, [8, 8, 8]), 259: (3, [7]), 262: (3, [2]), 273: (4, [0]), 277: (3, [3]), 278: (3, [height]), 279: (4, [len(plain)])}, plain)
    yield "jpeg_old", tiff_of({256: (3, [width]), 257: (3, [height]), 258: (3, [8, 8, 8]), 259: (3, [6]), 262: (3, [6]), 273: (4, [0]), 277: (3, [3]), 278: (3, [height]), 279: (4, [len(plain)]), 513: (4, [400]), 514: (4, [len(plain)])}, plain)
    for bits in (1, 2, 4, 8):
        for photo in (0, 1, 3):
            for order in (1, 2):
                shift = 8 - bits
                packed = bytearray()
                for row in gray:
                    line, per = bytearray((width * bits + 7) // 8), 8 // bits
                    for x, value in enumerate(row):
                        line[x // per] |= (int(value) >> shift) << (8 - bits - bits * (x % per))
                    packed += line
                if order == 2:
                    packed = bytearray(int(f"{value:08b}"[::-1], 2) for value in packed)
                tags = {256: (3, [width]), 257: (3, [height]), 258: (3, [bits]), 259: (3, [1]), 262: (3, [photo]), 266: (3, [order]), 273: (4, [0]), 277: (3, [1]), 278: (3, [height]), 279: (4, [len(packed)])}
                if photo == 3:
                    tags[320] = (3, [RNG.randrange(65536) for _ in range(3 << bits)])
                name = f"bits_{bits}_{photo}_{order}"
                yield name, tiff_of(tags, bytes(packed))
                yield f"{name}_big_endian", tiff_of(tags, bytes(packed), little=False)
                if order == 1:
                    lzw = imagecodecs.lzw_encode(bytes(packed))
                    yield f"{name}_lzw", tiff_of({**tags, 259: (3, [5]), 279: (4, [len(lzw)])}, lzw)
    base = {256: (3, [width]), 257: (3, [height]), 258: (3, [8, 8, 8]), 259: (3, [1]), 262: (3, [2]), 273: (4, [0]), 277: (3, [3]), 278: (3, [height]), 279: (4, [rgb.nbytes])}
    raw = rgb.tobytes()
    yield "made", tiff_of(base, raw)
    yield "made_big", tiff_of(base, raw, big=True)
    yield "made_big_endian", tiff_of(base, raw, little=False)
    yield "magic_swapped", tiff_of(base, raw, magic=b"II\0*")
    yield "magic_swapped_big_endian", tiff_of(base, raw, little=False, magic=b"MM*\0")
    for name, changes in {
        "no_photometric": {262: None},
        "no_bits": {258: None},
        "one_bits": {258: (3, [8])},
        "no_samples": {277: None},
        "no_strip_bytes": {279: None},
        "no_rows_per_strip": {278: None},
        "rows_per_strip_huge": {278: (4, [0xFFFFFFFF])},
        "rows_per_strip_0": {278: (3, [0])},
        "strip_bytes_short": {279: (4, [100])},
        "strip_bytes_long": {279: (4, [100000])},
        "no_offsets": {273: None},
        "no_width": {256: None},
        "no_height": {257: None},
        "width_long": {256: (4, [width])},
        "width_signed": {256: (9, [width])},
        "width_0": {256: (3, [0])},
        "samples_4": {277: (3, [4])},
        "samples_1": {277: (3, [1])},
        "samples_7": {277: (3, [7])},
        "bits_mixed": {258: (3, [8, 8, 16])},
        "bits_5": {258: (3, [5, 6, 5])},
        "bits_12": {258: (3, [12, 12, 12])},
        "format_signed": {339: (3, [2, 2, 2])},
        "format_one": {339: (3, [1])},
        "format_void": {339: (3, [4, 4, 4])},
        "format_mixed": {339: (3, [1, 1, 2])},
        "photometric_8": {262: (3, [8])},
        "photometric_9": {262: (3, [9])},
        "photometric_32803": {262: (3, [32803])},
        "photometric_6": {262: (3, [6])},
        "compression_2": {259: (3, [2])},
        "compression_4": {259: (3, [4])},
        "compression_99": {259: (3, [99])},
        "compression_32771": {259: (3, [32771])},
        "fill_order_2": {266: (3, [2])},
        "fill_order_3": {266: (3, [3])},
        "planar_2": {284: (3, [2])},
        "planar_3": {284: (3, [3])},
        "orientation_6": {274: (3, [6])},
        "orientation_9": {274: (3, [9])},
        "orientation_0": {274: (3, [0])},
        "orientation_long": {274: (4, [6])},
        "orientation_two": {274: (3, [6, 6])},
        "predictor_2": {317: (3, [2])},
        "extra_0": {338: (3, [0])},
        "extra_2": {338: (3, [2]), 277: (3, [4]), 258: (3, [8, 8, 8, 8])},
        "offset_beyond": {273: (4, [100000])},
        "two_strips": {273: (4, [0, 7 * 63]), 278: (3, [7]), 279: (4, [7 * 63, 7 * 63])},
        "two_strips_one_said": {273: (4, [0]), 278: (3, [7]), 279: (4, [7 * 63])},
        "two_strips_swapped": {273: (4, [7 * 63, 0]), 278: (3, [7]), 279: (4, [7 * 63, 7 * 63])},
        "three_strips_for_two": {273: (4, [0, 7 * 63, 63]), 278: (3, [7]), 279: (4, [7 * 63, 7 * 63, 63])},
        "wmp": {0xBC01: (3, [1])},
        "type_unknown": {700: (1, [1, 2, 3])},
        "exif_pointer": {34665: (4, [0])},
        "icc": {34675: (7, list(b"abcdef"))},
        "subfile": {254: (4, [1])},
    }.items():
        tags = {**base, **changes}
        yield f"made_{name}", tiff_of({tag: value for tag, value in tags.items() if value is not None}, raw)
    yield "made_cut", tiff_of(base, raw[:-50])
    yield "made_trailing", tiff_of(base, raw + b"trailing")
    for name, compressed, number in (("lzw", imagecodecs.lzw_encode(raw), 5), ("deflate", zlib.compress(raw), 8), ("packbits", imagecodecs.packbits_encode(raw), 32773)):
        tags = {**base, 259: (3, [number]), 279: (4, [len(compressed)])}
        yield f"{name}_cut", tiff_of(tags, compressed[:-60])
        yield f"{name}_cut_said", tiff_of({**tags, 279: (4, [len(compressed) - 60])}, compressed[:-60])
        yield f"{name}_long", tiff_of({**tags, 279: (4, [len(compressed) + 9])}, compressed + b"trailing!")
        yield f"{name}_rows_missing", tiff_of({**tags, 257: (3, [height + 3]), 278: (3, [height + 3])}, compressed)
        yield f"{name}_rows_too_many", tiff_of({**tags, 257: (3, [height - 3]), 278: (3, [height - 3])}, compressed)
        yield f"{name}_no_lengths", tiff_of({tag: value for tag, value in tags.items() if tag != 279}, compressed)
        yield f"{name}_16", tiff_of({**base, 258: (3, [16]), 262: (3, [1]), 277: (3, [1]), 259: (3, [number]), 256: (3, [width]), 257: (3, [10]), 279: (4, [len(compressed)])}, compressed)
    bits12 = bytearray()
    for row in gray:
        line = [int(value) * 16 + 5 for value in row]
        line += [0] * (len(line) % 2)
        for first, second in zip(line[::2], line[1::2]):
            bits12 += bytes([first >> 4, (first & 15) << 4 | second >> 8, second & 255])
        if width % 2:
            bits12.pop()
    yield "gray12", tiff_of({**base, 258: (3, [12]), 262: (3, [1]), 277: (3, [1]), 279: (4, [len(bits12)])}, bytes(bits12))
    yield "palette_alpha", tiff_of({**base, 258: (3, [8, 8]), 262: (3, [3]), 277: (3, [2]), 338: (3, [2]), 279: (4, [width * height * 2]), 320: (3, [RNG.randrange(65536) for _ in range(768)])}, np.dstack([gray, alpha]).tobytes())
    yield "palette_missing", tiff_of({**base, 258: (3, [8]), 262: (3, [3]), 277: (3, [1]), 279: (4, [width * height])}, gray.tobytes())
    yield "palette_short", tiff_of({**base, 258: (3, [8]), 262: (3, [3]), 277: (3, [1]), 279: (4, [width * height]), 320: (3, [RNG.randrange(65536) for _ in range(30)])}, gray.tobytes())
    yield "palette_low", tiff_of({**base, 258: (3, [8]), 262: (3, [3]), 277: (3, [1]), 279: (4, [width * height]), 320: (3, [RNG.randrange(256) for _ in range(768)])}, gray.tobytes())
    for fax in ("group3", "group4", "tiff_ccitt"):
        for photo in (0, 1):
            image = ImageOps.invert(bilevel) if photo else bilevel
            yield f"{fax}_photometric_{photo}", encoded(image, "TIFF", compression=fax, tiffinfo={262: photo})
    yield "group3_2d", encoded(bilevel, "TIFF", compression="group3", tiffinfo={292: 1})
    yield "group4_fill_2", encoded(bilevel, "TIFF", compression="group4", tiffinfo={266: 2})


def box(kind, *parts, version=None, flags=0):
    head = b"" if version is None else struct.pack(">I", version << 24 | flags)
    data = head + b"".join(parts)
    return struct.pack(">I", len(data) + 8) + kind + data


def inner_box(data, path):
    """The payload of the box at `path`, of which "meta" is a full box."""
    for kind in path:
        at = 0
        while data[at + 4 : at + 8] != kind:
            at += struct.unpack(">I", data[at : at + 4])[0]
        data = data[at + 8 : at + struct.unpack(">I", data[at : at + 4])[0]]
        if kind == b"meta":
            data = data[4:]
    return data


def avif_parts(image, **options):
    """The decoder's configuration and the AV1 data of a picture that Pillow wrote."""
    data = encoded(image, "AVIF", **options)
    configuration = inner_box(data, [b"meta", b"iprp", b"ipco", b"av1C"])
    # The last one is the primary image; Pillow writes alpha first.
    return configuration, inner_box(data, [b"mdat"])


def avif_of(items, properties, references=(), primary=1, construction=0, split=False, version=0, brand=b"avif"):
    """A file of `items` (number, kind, data, properties: numbers from 1, negative ones essential)."""
    infos = [box(b"infe", struct.pack(">HH", number, 0), kind, b"\0", b"application/rdf+xml\0" if kind == b"mime" else b"", version=2) for number, kind, _, _ in items]
    associations = b"".join(
        struct.pack(">HB", number, len(own)) + bytes(abs(at) | (0x80 if at < 0 else 0) for at in own) for number, _, _, own in items
    )
    idat = b"".join(data for _, _, data, _ in items) if construction else b""

    def places(start):
        out, at = b"", start
        for number, _, data, _ in items:
            parts = [(at, len(data) // 2), (at + len(data) // 2, len(data) - len(data) // 2)] if split else [(at, len(data))]
            out += struct.pack(">H" if version < 2 else ">I", number)
            out += struct.pack(">H", construction) if version else b""
            out += struct.pack(">HH", 0, len(parts)) + b"".join(struct.pack(">II", *part) for part in parts)
            at += len(data)
        count = struct.pack(">H" if version < 2 else ">I", len(items))
        return box(b"iloc", b"\x44\0", count, out, version=version)

    def meta(start):
        return box(
            b"meta",
            box(b"hdlr", bytes(4), b"pict", bytes(13), version=0),
            box(b"pitm", struct.pack(">H", primary), version=0),
            places(start),
            box(b"iinf", struct.pack(">H", len(items)), *infos, version=0),
            box(b"iref", *[box(kind, struct.pack(">HH", one, len(to)), struct.pack(f">{len(to)}H", *to)) for kind, one, to in references], version=0) if references else b"",
            box(b"iprp", box(b"ipco", *properties), box(b"ipma", struct.pack(">I", len(items)), associations, version=0)),
            box(b"idat", idat) if construction else b"",
            version=0,
        )

    head = box(b"ftyp", brand, bytes(4), b"avif", b"mif1", b"miaf")
    start = 0 if construction else len(head) + len(meta(0)) + 8
    return head + meta(start) + (b"" if construction else box(b"mdat", *[data for _, _, data, _ in items]))


def made_avifs():
    def ispe(width, height):
        return box(b"ispe", struct.pack(">II", width, height), version=0)

    def nclx(primaries, matrix, full):
        return box(b"colr", b"nclx", struct.pack(">HHHB", primaries, 13, matrix, 0x80 if full else 0))

    small = PHOTO.resize((37, 26))
    configuration, data = avif_parts(small)
    av1c = box(b"av1C", configuration)
    plain = [ispe(37, 26), av1c]
    one = [(1, b"av01", data, [1, -2])]
    yield "made", avif_of(one, plain)
    for name, options in {"idat": {"construction": 1, "version": 1}, "iloc_2": {"version": 2}, "split": {"split": True}, "split_idat": {"construction": 1, "version": 1, "split": True}, "mif1": {"brand": b"mif1"}}.items():
        yield f"made_{name}", avif_of(one, plain, **options)
    for angle in (None, 0, 1, 2, 3):
        for axis in (None, 0, 1):
            turns = [box(b"irot", bytes([angle]))] if angle is not None else []
            turns += [box(b"imir", bytes([axis]))] if axis is not None else []
            yield f"made_turned_{angle}_{axis}", avif_of([(1, b"av01", data, [1, -2, *range(-3, -3 - len(turns), -1)])], plain + turns)
    for full in (0, 1):
        for matrix in (1, 6, 9, 2, 0):
            yield f"made_nclx_{matrix}_{full}", avif_of([(1, b"av01", data, [1, -2, 3])], [*plain, nclx(1, matrix, full)])
    icc = box(b"colr", b"prof", b"abcd" * 40)
    yield "made_icc", avif_of([(1, b"av01", data, [1, -2, 3])], [*plain, icc])
    yield "made_icc_and_nclx", avif_of([(1, b"av01", data, [1, -2, 3, 4])], [*plain, icc, nclx(1, 1, 0)])
    yield "made_unknown_property", avif_of([(1, b"av01", data, [1, -2, 3])], [*plain, box(b"abcd", b"efgh")])
    yield "made_unknown_essential", avif_of([(1, b"av01", data, [1, -2, -3])], [*plain, box(b"abcd", b"efgh")])
    yield "made_size_differs", avif_of([(1, b"av01", data, [1, -2])], [ispe(36, 26), av1c])
    yield "made_clap", avif_of([(1, b"av01", data, [1, -2, -3])], [*plain, box(b"clap", struct.pack(">8I", 20, 1, 10, 1, 0, 1, 0, 1))])
    for number in (0, 1):
        yield f"made_a1op_{number}", avif_of([(1, b"av01", data, [1, -2, -3])], [*plain, box(b"a1op", bytes([number]))])
    for layer in (0, 0xFFFF):
        yield f"made_lsel_{layer}", avif_of([(1, b"av01", data, [1, -2, -3])], [*plain, box(b"lsel", struct.pack(">H", layer))])
    for bits in (8, 10):
        yield f"made_pixi_{bits}", avif_of([(1, b"av01", data, [1, -2, 3])], [*plain, box(b"pixi", bytes([3, bits, bits, bits]), version=0)])
    xmp = b"<x tiff:Orientation=\"6\"/>"
    about = [(b"cdsc", 2, [1])]
    yield "made_xmp", avif_of([*one, (2, b"mime", xmp, [])], plain, about)
    for orientation in (1, 6):
        yield f"made_exif_{orientation}", avif_of([*one, (2, b"Exif", bytes(4) + exif(orientation)[6:], [])], plain, about)
        both = [*one, (2, b"Exif", bytes(4) + exif(orientation)[6:], []), (3, b"mime", xmp, [])]
        yield f"made_exif_{orientation}_xmp", avif_of(both, plain, [*about, (b"cdsc", 3, [1])])
    yield "made_exif_6_turned", avif_of([(1, b"av01", data, [1, -2, -3]), (2, b"Exif", bytes(4) + exif(6)[6:], [])], [*plain, box(b"irot", b"\3")], about)
    alpha_configuration, alpha = avif_parts(small.convert("L"), subsampling="4:0:0")
    urn = box(b"auxC", b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0", version=0)
    with_alpha = [*plain, box(b"av1C", alpha_configuration), urn]
    both = [*one, (2, b"av01", alpha, [1, -3, 4])]
    yield "made_alpha", avif_of(both, with_alpha, [(b"auxl", 2, [1])])
    yield "made_alpha_premultiplied", avif_of(both, with_alpha, [(b"auxl", 2, [1]), (b"prem", 1, [2])])
    yield "made_alpha_without_name", avif_of([*one, (2, b"av01", alpha, [1, -3])], with_alpha, [(b"auxl", 2, [1])])
    for range_ in ("limited", "full"):
        alpha_configuration, alpha = avif_parts(small.convert("L"), subsampling="4:0:0", range=range_)
        yield f"made_alpha_{range_}", avif_of([*one, (2, b"av01", alpha, [1, -3, 4])], [*plain, box(b"av1C", alpha_configuration), urn], [(b"auxl", 2, [1]), (b"prem", 1, [2])])
    photo = PHOTO.resize((200, 140), Image.LANCZOS)
    for name, options in {"420": {}, "422": {"subsampling": "4:2:2"}, "444": {"subsampling": "4:4:4"}, "400": {"subsampling": "4:0:0"}}.items():
        tiles = [avif_parts(photo.crop((x, y, x + 80, y + 70)), **options) for y in (0, 70) for x in (0, 80, 160)]
        items = [(number + 2, b"av01", tile[1], [1, -2]) for number, tile in enumerate(tiles)]
        for width, height in ((200, 140), (199, 139), (162, 72), (100, 100), (240, 140)):
            grid = struct.pack(">BBBBHH", 0, 0, 1, 2, width, height)
            properties = [ispe(80, 70), box(b"av1C", tiles[0][0]), ispe(width, height)]
            yield f"grid_{name}_{width}_{height}", avif_of([(1, b"grid", grid, [3]), *items], properties, [(b"dimg", 1, list(range(2, 8)))])
    tiles = [avif_parts(photo.crop((x, 0, x + 64, 64))) for x in (0, 64)]
    alphas = [avif_parts(photo.crop((x, 0, x + 64, 64)).convert("L"), subsampling="4:0:0") for x in (64, 0)]
    items = [(1, b"grid", struct.pack(">BBBBHH", 0, 0, 0, 1, 128, 64), [3]), (2, b"grid", struct.pack(">BBBBHH", 0, 0, 0, 1, 128, 64), [3, 5])]
    items += [(3 + at, b"av01", tile[1], [1, -2]) for at, tile in enumerate(tiles)] + [(5 + at, b"av01", tile[1], [1, -4]) for at, tile in enumerate(alphas)]
    properties = [ispe(64, 64), box(b"av1C", tiles[0][0]), ispe(128, 64), box(b"av1C", alphas[0][0]), urn]
    parts = [(b"dimg", 1, [3, 4]), (b"dimg", 2, [5, 6]), (b"auxl", 2, [1])]
    yield "grid_alpha", avif_of(items, properties, parts)
    yield "grid_alpha_premultiplied", avif_of(items, properties, [*parts, (b"prem", 1, [2])])
    yield "grid_large_numbers", avif_of([(1, b"grid", struct.pack(">BBBBII", 0, 1, 0, 1, 128, 64), [3]), *items[2:4]], properties, [(b"dimg", 1, [3, 4])])
    yield "grid_of_one", avif_of([(1, b"grid", struct.pack(">BBBBHH", 0, 0, 0, 0, 64, 64), [1]), items[2]], properties, [(b"dimg", 1, [3])])
    tile = avif_parts(photo.crop((0, 0, 48, 48)))
    yield "grid_small_tiles", avif_of([(1, b"grid", struct.pack(">BBBBHH", 0, 0, 0, 1, 96, 48), [3]), (2, b"av01", tile[1], [1, -2]), (3, b"av01", tile[1], [1, -2])], [ispe(48, 48), box(b"av1C", tile[0]), ispe(96, 48)], [(b"dimg", 1, [2, 3])])


def avifs():
    small = PHOTO.resize((37, 26))
    alpha = np.asarray(small.convert("L"))[::-1]
    rgba = Image.fromarray(np.dstack([np.asarray(small), alpha]), "RGBA")
    for subsampling in ("4:2:0", "4:2:2", "4:4:4", "4:0:0"):
        for range_ in ("full", "limited"):
            for quality in (40, 90):
                yield f"rgb_{subsampling}_{range_}_{quality}", encoded(small, "AVIF", subsampling=subsampling, range=range_, quality=quality)
        yield f"rgba_{subsampling}", encoded(rgba, "AVIF", subsampling=subsampling)
        yield f"rgba_{subsampling}_premultiplied", encoded(rgba, "AVIF", subsampling=subsampling, alpha_premultiplied=True)
    yield "lossless", encoded(small, "AVIF", quality=100, subsampling="4:4:4")
    yield "gray", encoded(small.convert("L"), "AVIF")
    yield "gray_alpha", encoded(small.convert("LA"), "AVIF")
    yield "even", encoded(small.crop((0, 0, 32, 16)), "AVIF")
    for orientation in range(2, 9):
        yield f"orientation_{orientation}", encoded(small, "AVIF", exif=exif(orientation)[6:])
    yield "exif_only", encoded(small, "AVIF", exif=exif(1)[6:])
    yield "animated", encoded(small, "AVIF", save_all=True, append_images=[small.rotate(180)])
    yield "animated_alpha", encoded(rgba, "AVIF", save_all=True, append_images=[rgba.rotate(180)])
    yield "icc", encoded(small, "AVIF", icc_profile=b"abcd" * 30)
    yield "one_pixel", encoded(small.crop((0, 0, 1, 1)), "AVIF")
    yield "tiles", encoded(PHOTO.resize((160, 96)), "AVIF", tile_rows=1, tile_cols=1)
    yield "film_grain", encoded(PHOTO.resize((64, 48)), "AVIF", advanced={"film-grain-test": "1"})
    wide = np.asarray(small).astype(np.uint16)
    for depth in (8, 10, 12):
        for pixels in ("420", "422", "444", "400"):
            try:
                data = imagecodecs.avif_encode((wide << (depth - 8)).astype(np.uint8 if depth == 8 else np.uint16), level=80, bitspersample=depth, pixelformat=pixels)
            except Exception as error:
                print("avif", depth, pixels, error)
                continue
            yield f"depth_{depth}_{pixels}", data
    base = encoded(small, "AVIF")
    yield "trailing", base + b"trailing"
    yield "cut", base[:-50]
    yield "brand_mif1", base.replace(b"ftypavif", b"ftypmif1", 1)
    yield "brand_heic", base.replace(b"ftypavif", b"ftypheic", 1)
    for primaries in (1, 9, 12):
        for matrix in (0, 1, 5, 6, 9, 2, 4, 7, 8, 10, 12, 14):
            at = base.find(b"colrnclx")
            if at < 0:
                break
            data = bytearray(base)
            data[at + 8 : at + 10] = struct.pack(">H", primaries)
            data[at + 12 : at + 14] = struct.pack(">H", matrix)
            yield f"matrix_{primaries}_{matrix}", bytes(data)
    yield from made_avifs()


MAKERS = {"jpeg": jpegs, "png": pngs, "gif": gifs, "webp": webps, "bmp": bmps, "tiff": tiffs, "avif": avifs}


def main():
    OUT.mkdir(exist_ok=True)
    for name in sys.argv[1:] or MAKERS:
        pictures = list(MAKERS[name]())
        names = [picture[0] for picture in pictures]
        assert len(set(names)) == len(names), sorted(found for found in set(names) if names.count(found) > 1)
        rows = []
        for number, (kind, data) in enumerate(pictures):
            results = [result(data)] + [result(damaged(data, number * 1000 + copy)) for copy in range(1, COPIES + 1)]
            rows.append({"name": kind, "bytes": data, "results": results})
        table = pa.Table.from_pylist(rows, schema=pa.schema({"name": pa.string(), "bytes": pa.binary(), "results": pa.list_(pa.string())}))
        pq.write_table(table, OUT / f"{name}.parquet", compression="zstd", compression_level=19, row_group_size=len(rows), store_schema=False)
        opened = sum(found != "-" for row in rows for found in row["results"])
        print(name, len(rows), "pictures,", opened, "of", sum(len(row["results"]) for row in rows), "open,", (OUT / f"{name}.parquet").stat().st_size, "bytes")


if __name__ == "__main__":
    main()

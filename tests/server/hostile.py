"""Requests that a server must refuse: by name, the body, the content type, and the status to expect."""

import gzip
import io
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

__all__ = ["HOSTILE", "jpeg", "multipart"]

FORM = "multipart/form-data; boundary=frontier"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
LAUGHS = b'<!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><svg>&b;</svg>'


def picture(side: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def jpeg(**options: object) -> bytes:
    return encoded(picture(), "JPEG", **options)


def animated(kind: str) -> bytes:
    frames = [picture(side).resize((32, 32)) for side in (8, 16, 24)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, *chunks: bytes, data: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def large_jpeg() -> bytes:
    """A small JPEG whose header states 12,000 × 12,000 pixels."""
    content = bytearray(jpeg())
    at = content.index(b"\xff\xc0")
    content[at + 5 : at + 9] = struct.pack(">HH", 12_000, 12_000)
    return bytes(content)


def with_scans(number: int) -> bytes:
    """A progressive JPEG whose last scan is there so many times."""
    content = jpeg(progressive=True)
    start = content.rindex(b"\xff\xda")
    return content[:start] + content[start:-2] * number + content[-2:]


def tiff(*entries: tuple[int, int, int, int], following: int = 0) -> bytes:
    listed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries)) + listed + struct.pack("<I", following)


def multipart(*parts: tuple[str, bytes]) -> bytes:
    """A form with a file field for each (name of a file, content)."""
    lines = b""
    for name, content in parts:
        head = f'--frontier\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        lines += head.encode() + content + b"\r\n"
    return lines + b"--frontier--\r\n"


def with_text(name: str) -> bytes:
    """A PNG with a text of 80 MB in 80 KB."""
    info = PngImagePlugin.PngInfo()
    getattr(info, f"add_{name}")("Comment", "a" * 80_000_000, zip=True)
    return encoded(picture(8), "PNG", pnginfo=info)


GOOD = jpeg()
BMP = encoded(picture(), "BMP")
GIF = encoded(picture(), "GIF")
WEBP = encoded(picture(), "WEBP")
TIFF = encoded(picture(), "TIFF", compression="tiff_lzw")
PNG = encoded(picture(), "PNG")
RAW = "application/octet-stream"

HOSTILE: dict[str, tuple[bytes, str, int]] = {
    "nothing": (b"", "image/jpeg", 400),
    "a space": (b" ", RAW, 415),
    "a text": (b"../../etc/passwd", RAW, 415),
    "a text as text": (b"hello", "text/plain", 415),
    "a page": (b"<html></html>", "image/png", 415),
    "a page as a page": (b"<html></html>", "text/html", 415),
    "an SVG": (SVG, "image/svg+xml", 415),
    "an SVG of entities": (LAUGHS, "image/svg+xml", 415),
    "a PDF": (b"%PDF-1.7\n", "image/jpeg", 415),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(ls) run", "image/x-eps", 415),
    "an archive": (b"PK\3\4" + bytes(60), RAW, 415),
    "a packed image": (gzip.compress(GOOD), "image/jpeg", 415),
    "a program": (b"\x7fELF" + bytes(60), RAW, 415),
    "a pickle": (pickle.dumps({"a": 1}), RAW, 415),
    "a font": (b"\0\1\0\0" + bytes(60), RAW, 415),
    "a PSD": (b"8BPS\0\1" + bytes(60), "image/vnd.adobe.photoshop", 415),
    "a film": (b"\0\0\0\x18ftypmp42" + bytes(60), "video/mp4", 415),
    "zeros": (bytes(100_000), RAW, 415),
    "a JPEG's first bytes": (GOOD[:4], "image/jpeg", 422),
    "a JPEG's header": (GOOD[:200], "image/jpeg", 422),
    "half a JPEG": (GOOD[: len(GOOD) // 2], "image/jpeg", 422),
    "a JPEG of 144 megapixels": (large_jpeg(), "image/jpeg", 413),
    "a JPEG of a thousand scans": (with_scans(1_000), "image/jpeg", 422),
    "a PNG's signature": (PNG[:8], "image/png", 422),
    "half a PNG": (PNG[: len(PNG) // 2], "image/png", 422),
    "a PNG with a wrong checksum": (PNG[:20] + b"\xff" + PNG[21:], "image/png", 422),
    "a PNG of noise": (png(64, 64, data=b"")[:60] + bytes(range(256)), "image/png", 422),
    "a PNG without pixels": (png(0, 0), "image/png", 422),
    "a PNG of 4 gigapixels": (png(65_535, 65_535), "image/png", 413),
    "a PNG of 100 megapixels": (encoded(Image.new("1", (10_000, 10_000)), "PNG"), "image/png", 413),
    "a PNG that ends early": (png(2_000, 2_000, data=bytes(100)), "image/png", 422),
    "a PNG with a text of 80 MB": (with_text("text"), "image/png", 422),
    "a PNG with an international text of 80 MB": (with_text("itxt"), "image/png", 422),
    "a moving PNG": (animated("PNG"), "image/png", 422),
    "a moving GIF": (animated("GIF"), "image/gif", 422),
    "half a GIF": (GIF[: len(GIF) // 2], "image/gif", 422),
    "a GIF's signature": (GIF[:6], "image/gif", 422),
    "a GIF of 4 gigapixels": (GIF[:6] + b"\xff\xff\xff\xff" + GIF[10:], "image/gif", 413),
    "a moving WebP": (animated("WEBP"), "image/webp", 422),
    "half a WebP": (WEBP[: len(WEBP) // 2], "image/webp", 422),
    "a WebP of zeros": (b"RIFF\xff\xff\xff\x7fWEBP" + bytes(200), "image/webp", 422),
    "an AVIF of zeros": (b"\0\0\0\x20ftypavif" + bytes(200), "image/avif", 422),
    "half a BMP": (BMP[: len(BMP) // 2], "image/bmp", 422),
    "a BMP of 900 megapixels": (BMP[:18] + struct.pack("<ii", 30_000, 30_000) + BMP[26:], "image/bmp", 413),
    "half a TIFF": (TIFF[: len(TIFF) // 2], "image/tiff", 422),
    "a TIFF of nothing": (tiff(), "image/tiff", 422),
    "a TIFF that leads to itself": (tiff((256, 4, 1, 9), following=8), "image/tiff", 422),
    "a TIFF of 10 gigapixels in no strip": (
        tiff((256, 4, 1, 100_000), (257, 4, 1, 100_000), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)),
        "image/tiff",
        422,
    ),
    "too many bytes": (GOOD + bytes(4_000_000), "image/jpeg", 413),
    "a form without a boundary": (multipart(("a.jpg", GOOD)), "multipart/form-data", 400),
    "a form that is none": (b"\0" * 100, FORM, 400),
    "a form without a file": (multipart(("", b"x")).replace(b'; filename=""', b""), FORM, 400),
    "a form with an endless header": (b"--frontier\r\n" + b"A" * 100_000, FORM, 400),
    "a form with a text of a megabyte": (
        b'--frontier\r\nContent-Disposition: form-data; name="x"\r\n\r\n' + b"x" * 1_000_000 + b"\r\n--frontier--",
        FORM,
        400,
    ),
    "a form with too many images": (multipart(*(("a.jpg", GOOD) for _ in range(9))), FORM, 413),
    "a form with a hundred images": (multipart(*(("a.jpg", GOOD) for _ in range(100))), FORM, 413),
    "a form with a broken image": (multipart(("good.jpg", GOOD), ("bad.jpg", GOOD[:300])), FORM, 422),
    "a name that is a path": (multipart(("../../../etc/passwd", GOOD[:300])), FORM, 422),
    "a name of 100,000 letters": (multipart(("a" * 100_000, GOOD)), FORM, 400),
    "a name with a line break": (multipart(("a%0d%0aSet-Cookie: a=b", GOOD[:300])), FORM, 422),
    "URLs": (b'{"urls": ["http://169.254.169.254/"]}', "application/json", 415),
}


def write(folder: Path) -> None:
    """Write the bodies as files, for tries by hand."""
    for number, (body, _, _) in enumerate(HOSTILE.values()):
        (folder / f"{number:02}").write_bytes(body)

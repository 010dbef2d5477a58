"""Fetch pictogram sets and fonts for training from the npm registry into a folder, once.

None of them is shipped. Each is one package, checked against its checksum before it is opened; a set that is in the
folder already is not fetched again, and a download that stops early leaves no file.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from mm1_mlx.errors import DataError, UsageError
from mm1_mlx.files.writing import new_file
from mm1_mlx.tiny.stock import SIDE, pictogram_classes

REGISTRY = "https://registry.npmjs.org"
TIMEOUT = 60  # seconds without an answer


@dataclass(frozen=True)
class Package:
    """A package of the registry, its checksum and its licence."""

    path: str  # below the registry
    sha512: str  # base64, as the registry gives it
    license: str


PACKAGES = {
    "noto": Package(
        "@iconify-json/noto/-/noto-1.2.9.tgz",
        "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
        "Noto Emoji, Google Inc, Apache-2.0",
    ),
    "twemoji": Package(
        "@iconify-json/twemoji/-/twemoji-1.2.5.tgz",
        "uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
        "Twemoji, Twitter, CC-BY-4.0",
    ),
    "fluent-emoji-flat": Package(
        "@iconify-json/fluent-emoji-flat/-/fluent-emoji-flat-1.2.6.tgz",
        "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
        "Fluent Emoji, Microsoft, MIT",
    ),
    "openmoji": Package(
        "@iconify-json/openmoji/-/openmoji-1.2.29.tgz",
        "vXdhkqcXVSO6suy+m9LbcUM3OdVyuNOtpV8/als/WqfkQIRxevL5Geb/g+6GH/Qwnq1OqksEmaDGTCmZ5nFKJQ==",
        "OpenMoji, HfG Schwäbisch Gmünd, CC-BY-SA-4.0",
    ),
    "fonts": Package(
        "dejavu-fonts-ttf/-/dejavu-fonts-ttf-2.37.3.tgz",
        "f1hd7jJbeQa1VWcw+K2KrTXS50zTMaHpVC4XIKJpNcDeYR5ajMtj/iLlQDYNvLOKamUB3ARVVCf79lNwNVztSQ==",
        "DejaVu, Bitstream Vera licence",
    ),
}
PHOTOGRAPHS = {  # what scikit-image brings
    "training": (
        *("astronaut", "camera", "chelsea", "brick", "grass", "gravel", "immunohistochemistry", "retina"),
        *("coins", "clock"),
    ),
    "held-out": ("coffee", "rocket", "moon", "hubble_deep_field"),
}
SAMPLES = {"training": "china.jpg", "held-out": "flower.jpg"}  # what scikit-learn brings
FONTS = (
    "Sans",
    "Sans-Bold",
    "Sans-Oblique",
    "SansMono",
    "SansMono-Bold",
    "Serif",
    "Serif-Bold",
    "Serif-Italic",
)


def fetch(folder: Path, *, report: Callable[[str], None] = print) -> None:
    """Fill ``folder`` with ``<set>.zip`` for every set and ``fonts.zip``, 13 MB to download.

    Pictograms are drawn from vectors by the package ``resvg-py``.

    Args:
        folder: where they are kept; made if it is not there.
        report: called with one line about each set.

    Raises:
        DataError: the registry does not answer, or sends something else than expected.
        UsageError: resvg-py is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, package in PACKAGES.items():
        path = folder / f"{name}.zip"
        if path.is_file():
            continue
        files = _unpack(_download(package), package)
        members = _pick_fonts(files) if name == "fonts" else _draw_pictograms(files)
        with new_file(path) as fresh, zipfile.ZipFile(fresh, "w") as archive:
            for member, data in members.items():
                archive.writestr(member, data)
        report(f"{path}: {len(members)} files ({package.license})")


def gather_photographs(folder: Path, *, report: Callable[[str], None] = print) -> None:
    """Write ``photographs.zip`` from those that scikit-image and scikit-learn bring.

    Raises:
        UsageError: one of the two is not installed.
    """
    try:
        from skimage import data
        from sklearn.datasets import load_sample_image
    except ImportError:
        raise UsageError(
            "photographs come with scikit-image and scikit-learn; install them: pip install scikit-image scikit-learn"
        ) from None
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "photographs.zip"
    with new_file(path) as fresh, zipfile.ZipFile(fresh, "w") as archive:
        for part, names in PHOTOGRAPHS.items():
            pictures = {name: Image.fromarray(getattr(data, name)()) for name in names}
            pictures["sample"] = Image.fromarray(load_sample_image(SAMPLES[part]))
            for name, picture in pictures.items():
                picture.thumbnail((400, 400))
                packed = io.BytesIO()
                picture.convert("RGB").save(packed, "PNG")
                archive.writestr(f"{part}/{name}.png", packed.getvalue())
    report(f"{path}: {sum(map(len, PHOTOGRAPHS.values())) + len(SAMPLES)} photographs")


def _download(package: Package) -> bytes:
    url = f"{REGISTRY}/{package.path}"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            data = answer.read()
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise DataError(
            f"{url} cannot be fetched ({error}); try again later, what is there is kept."
        ) from None
    found = base64.b64encode(hashlib.sha512(data).digest()).decode()
    if found != package.sha512:
        raise DataError(
            f"{url} has the checksum {found[:16]}…, expected {package.sha512[:16]}…; it is not used."
        )
    return data


def _unpack(data: bytes, package: Package) -> dict[str, bytes]:
    """Return the files of a package by name; they stay in memory, so that none is written outside the folder."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        files = {m.name: archive.extractfile(m) for m in archive.getmembers() if m.isfile()}
        return {name.removeprefix("package/"): file.read() for name, file in files.items() if file}


def _pick_fonts(files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"DejaVu{name}": files[f"ttf/DejaVu{name}.ttf"] for name in FONTS}


def _draw_pictograms(files: dict[str, bytes]) -> dict[str, bytes]:
    """Draw a PNG for every class of which the set has a picture; return them by file name."""
    try:
        from resvg_py import svg_to_bytes
    except ImportError:
        raise UsageError("drawing pictograms needs resvg-py; install it: pip install resvg-py") from None
    icons, chars = json.loads(files["icons.json"]), json.loads(files["chars.json"])
    drawn = {}
    for pictogram in pictogram_classes():
        slug = chars.get(pictogram.code) or chars.get(pictogram.code.replace("-fe0f", ""))
        if slug is not None:
            drawn[f"{pictogram.code}.png"] = bytes(svg_to_bytes(svg_string=_write_svg(icons, slug)))
    return drawn


def _write_svg(icons: dict[str, Any], slug: str) -> str:
    if slug not in icons["icons"]:
        slug = icons["aliases"][slug]["parent"]
    icon = icons["icons"][slug]
    left, top = (icon.get(key, 0) for key in ("left", "top"))
    width, height = (icon.get(key, icons.get(key, 16)) for key in ("width", "height"))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" width="{SIDE}" height="{SIDE}">{icon["body"]}</svg>'
    )

"""A sample to look at: its spots over its H&E, in one offline page; and as GeoJSON for QuPath.

The page holds Leaflet (BSD 2-Clause, in ``leaflet/``), the H&E reduced to ``PICTURE_PX``, and as many
genes as fit into ``BYTES``, those that vary most first.
"""

import base64
import gzip
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PICTURE_PX = 4096
PICTURE_QUALITY = 80
BYTES = 15_000_000  # of the page
TEMPLATE = Path(__file__).with_name("viewer.html.j2")
LEAFLET = Path(__file__).with_name("leaflet")
GIVEN = ("transcripts", "genes")  # columns of the spots that can be shown


@dataclass(frozen=True)
class Shown:
    """A sample's spots as the page shows them, in pixels of the picture (µm where there is none).

    ``splits`` and ``ranks`` are of each spot, empty and 0 where there is none; ``partners`` what the
    image of a spot retrieves, by its number: texts, and the numbers of spots of this sample (or -1).
    """

    sample: str
    table: object  # AnnData of spots x genes
    centres: np.ndarray  # (N, 2)
    outline: np.ndarray  # (K, 2) from the centre
    picture: np.ndarray | None  # (height, width, 3) uint8
    um_per_px: float  # of the picture
    splits: list[str]
    ranks: np.ndarray  # (N,) int
    partners: Mapping[int, list[tuple[str, int]]]
    run: str = ""


def circle(radius: float, corners: int = 24) -> np.ndarray:
    """The outline of a round spot, (K, 2)."""
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return radius * np.column_stack([np.cos(angles), np.sin(angles)])


def render(shown: Shown) -> str:
    """The page."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    picture = _picture(shown.picture) if shown.picture is not None else ""
    code = {
        name: (LEAFLET / name).read_text(encoding="utf-8") for name in ("leaflet.js", "leaflet.css")
    }
    table, room = shown.table, BYTES - len(picture) - sum(map(len, code.values())) - 100_000
    order = np.argsort(-_variances(table.X), kind="stable")
    counts = _counts(table.X, order)
    while len(counts) > room and len(order) > 1:
        order = order[: max(1, int(len(order) * room / len(counts) * 0.95))]
        counts = _counts(table.X, order)
    facts = {
        "sample": shown.sample,
        "names": table.obs_names.tolist(),
        "centres": np.round(shown.centres, 2).tolist(),
        "outline": np.round(shown.outline, 2).tolist(),
        "size": [*shown.picture.shape[1::-1]] if shown.picture is not None else None,
        "um_per_px": shown.um_per_px,
        "columns": {name: table.obs[name].tolist() for name in GIVEN},
        "genes": [str(table.var_names[i]) for i in order],
        "genes_in_all": int(table.n_vars),
        "splits": shown.splits,
        "ranks": shown.ranks.tolist(),
        "partners": {str(spot): told for spot, told in shown.partners.items()},
        "run": shown.run,
    }
    return environment.get_template(TEMPLATE.name).render(
        sample=shown.sample,
        facts=_packed(json.dumps(facts, ensure_ascii=False).encode()),
        counts=counts,
        picture=picture,
        licence=(LEAFLET / "LICENSE").read_text(encoding="utf-8"),
        script=code["leaflet.js"],
        style=code["leaflet.css"],
    )


def geojson(shown: Shown, scale: float) -> str:
    """The spots as polygons in pixels of the full H&E, as QuPath imports them.

    ``scale`` is how many of those make a pixel of the picture.
    """
    features = []
    for name, centre, split in zip(shown.table.obs_names, shown.centres, shown.splits, strict=True):
        ring = np.round((centre + shown.outline) * scale, 2).tolist()
        properties = {"objectType": "annotation", "name": str(name)}
        properties |= {"classification": {"name": split}} if split else {}
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
                "properties": properties,
            }
        )
    return json.dumps({"type": "FeatureCollection", "features": features})


def _variances(counts) -> np.ndarray:
    """Of log counts, by gene."""
    logs = counts.astype(np.float64)
    logs.data = np.log1p(logs.data)
    mean = np.asarray(logs.mean(axis=0)).ravel()
    return np.asarray(logs.multiply(logs).mean(axis=0)).ravel() - mean**2


def _counts(counts, order: np.ndarray) -> str:
    """The counts by gene: where each begins (uint32), spots (uint32), counts (uint16), packed."""
    chosen = counts[:, order].tocsc()
    values = np.minimum(chosen.data, np.iinfo(np.uint16).max).astype("<u2")
    parts = [chosen.indptr.astype("<u4"), chosen.indices.astype("<u4"), values]
    return _packed(b"".join(part.tobytes() for part in parts))


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()


def _picture(pixels: np.ndarray) -> str:
    from PIL import Image

    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "JPEG", quality=PICTURE_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(written.getvalue()).decode()

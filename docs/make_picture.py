"""Compose the README's picture from what `make demo` leaves, and say in its alt text what it shows.

A test section with its spots, one spot with the genes that it holds, and how often partners find each
other. The pair of encoders is the one with the highest recall, the spot its *best* query of the report:
neither is chosen by hand.

    python docs/make_picture.py [--results results/demo] [--out docs/picture.png] [--readme README.md]
"""

import argparse
import io
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from pairscape.core import files  # noqa: E402
from pairscape.dataset import expression_counts, pair_shards  # noqa: E402
from pairscape.encoders import specs  # noqa: E402
from pairscape.images.any_image import open_image  # noqa: E402
from pairscape.jobs import program  # noqa: E402
from pairscape.report import hits_table, retrieval_table, style  # noqa: E402

SCORE = retrieval_table.HEADLINE
SECTION_PX, GENES, SCALE_BAR_UM = 900, 6, 200
WIDTH, HEIGHT, TITLE = 11.2, 3.95, 0.55  # inches
COLOURS = 224  # of the PNG
ALT = re.compile(r"!\[[^\]]*\]\(docs/picture\.png\)")


@dataclass(frozen=True)
class Spot:
    """A spot of a section: where it lies, how it looks there, what it holds more of than others.

    ``outlines`` of all spots, and ``frame``, the patch's x, y and side, are in pixels of ``section``;
    ``outline`` of this spot is in pixels of ``patch``.
    ``genes`` are symbol, count, and the count expected of a spot with as many transcripts.
    """

    sample: str
    donor: str
    name: str
    section: np.ndarray
    um_per_px: float
    outlines: list[np.ndarray]
    frame: tuple[float, float, float]
    patch: np.ndarray
    outline: np.ndarray
    side_um: float
    genes: list[tuple[str, int, float]]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=ROOT / "results/demo")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/picture.png")
    parser.add_argument("--readme", type=Path, help="page whose alt text of the picture is renewed")
    args = parser.parse_args(argv)
    rows = recall(retrieval_table.TABLE.read(args.results / "tables/retrieval_demo.tsv"))
    spot = read_spot(args.results, rows[0], best_query(args.results, rows[0]))
    draw(args.out, spot, rows)
    words = alt_text(spot, rows)
    if args.readme:
        text, count = ALT.subn(lambda _: f"![{words}](docs/picture.png)", args.readme.read_text())
        if count != 1:
            raise SystemExit(f"{args.readme}: found {count} pictures docs/picture.png; keep one")
        args.readme.write_text(text)
    print(f"{args.out}: {args.out.stat().st_size / 1e3:.0f} KB\n{words}")


def recall(table: Sequence[Mapping]) -> list[Mapping]:
    """The rows of the whole test split, the pair of encoders with the highest mean recall first."""
    whole = [row for row in table if row["gallery"] == "split" and row[SCORE] is not None]
    means: dict[str, list[float]] = {}
    for row in whole:
        means.setdefault(row["gene_encoder"], []).append(row[SCORE])
    return sorted(whole, key=lambda row: -np.mean(means[row["gene_encoder"]]))


def best_query(results: Path, pair: Mapping) -> Mapping:
    """The query of the report that its image finds the partner of best."""
    keys = ("dataset", "image_encoder", "gene_encoder")
    (row,) = (
        row
        for row in hits_table.TABLE.read(results / "tables/hits_demo.tsv")
        if all(row[key] == pair[key] for key in keys)
        and (row["query"], row["direction"]) == ("best", "i2g")
    )
    return row


def read_spot(results: Path, pair: Mapping, query: Mapping) -> Spot:
    """A query's section, patch and genes, from the bundle, the viewer's outlines and the shard."""
    sample, name = query["sample"], query["spot"]
    shard = results / f"datasets/{pair['dataset']}/shards/{sample}.arrow"
    facts, index = pair_shards.shard_metadata(shard), pair_shards.read_index(shard)
    spots = index["spot"].to_pylist()
    outlines_px = read_outlines(results / f"samples/{sample}/square55/spots.geojson")
    with open_image(results / f"bundles/{sample}/{sample}_he_image.ome.tif", None) as image:
        section, scale = image.thumbnail(SECTION_PX)
        side = round(facts["patches"]["side_px"])
        left, top = np.round(outlines_px[name][:-1].mean(axis=0) - side / 2).astype(int)
        patch = image.read_region(left, top, side, side)
    um_per_px = facts["alignment"]["um_per_px"]
    return Spot(
        sample=sample,
        donor=index["donor"][spots.index(name)].as_py(),
        name=name,
        section=section,
        um_per_px=um_per_px * scale,
        outlines=[outlines_px[spot] / scale for spot in spots],
        frame=(left / scale, top / scale, side / scale),
        patch=patch,
        outline=outlines_px[name] - (left, top),
        side_um=side * um_per_px,
        genes=leading_genes(pair_shards.read_expression(shard), spots.index(name), facts["genes"]),
    )


def read_outlines(path: Path) -> dict[str, np.ndarray]:
    """The outlines of a section's spots by their names, (corners, 2), in pixels of its H&E."""
    features = json.loads(path.read_text(encoding="utf-8"))["features"]
    return {
        each["properties"]["name"]: np.array(each["geometry"]["coordinates"][0])
        for each in features
    }


def leading_genes(counts: np.ndarray, spot: int, genes: Sequence[str]) -> list[tuple]:
    """The genes that a spot holds most of beyond its section's share: symbol, count, expected."""
    held = counts[spot]
    share = counts.sum(axis=0) / counts.sum()
    leading = zip(*expression_counts.leading_genes(held, share, GENES), strict=True)
    return [(genes[i], int(held[i]), float(expected)) for i, expected in leading]


def draw(path: Path, spot: Spot, rows: Sequence[Mapping]) -> None:
    """Draw the panels, and write them as a PNG of few colours: the same input, the same bytes."""
    import matplotlib
    from matplotlib.figure import Figure
    from PIL import Image

    with matplotlib.rc_context(style.STYLE | {"font.size": 10, "axes.titlesize": 11}):
        figure = Figure(figsize=(WIDTH, HEIGHT), dpi=style.DPI)
        draw_section(panel(figure, 0.1, 3.3, 3.3), spot)
        draw_patch(panel(figure, 3.65, 2.4, 2.4), spot)
        draw_genes(panel(figure, 6.85, 1.4, 2.4), spot)
        draw_recall(panel(figure, 9.2, 1.75, 2.4), rows)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", metadata={"Software": None})
    picture = Image.open(drawn).convert("RGB")
    few = picture.quantize(COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG)
    with files.atomic_path(path) as temporary:
        few.save(temporary, "PNG", optimize=True)


def panel(figure, left: float, width: float, height: float):
    """A panel of so many inches, below two lines of title."""
    bottom = HEIGHT - TITLE - height
    return figure.add_axes(
        (left / WIDTH, bottom / HEIGHT, width / WIDTH, height / HEIGHT), anchor="NW"
    )


def draw_section(panel, spot: Spot) -> None:
    from matplotlib.collections import PolyCollection
    from matplotlib.patches import Rectangle

    panel.imshow(spot.section)
    panel.add_collection(
        PolyCollection(spot.outlines, facecolor="none", edgecolor="white", linewidth=0.5)
    )
    left, top, side = spot.frame
    panel.add_patch(Rectangle((left, top), side, side, fill=False, color=style.BLACK, linewidth=2))
    draw_scale_bar(panel, spot)
    panel.set_axis_off()
    panel.set_title(
        f"Simulated section of a test donor:\n{len(spot.outlines)} spots of 55 µm", loc="left"
    )


def draw_scale_bar(panel, spot: Spot) -> None:
    """A bar of ``SCALE_BAR_UM`` on a white plate, at the lower left of the section."""
    from matplotlib.patches import Rectangle

    height, width = spot.section.shape[:2]
    length, unit = SCALE_BAR_UM / spot.um_per_px, width / 40
    plate = Rectangle((0, height - 3.4 * unit), length + 2 * unit, 3.4 * unit)
    plate.set(facecolor="white", zorder=3)
    panel.add_patch(plate)
    ends = [unit, unit + length]
    panel.plot(ends, [height - 0.7 * unit] * 2, color=style.BLACK, linewidth=2.5, zorder=4)
    middle = unit + length / 2, height - 1.2 * unit
    panel.text(*middle, f"{SCALE_BAR_UM} µm", size=8.5, zorder=4, ha="center")


def draw_patch(panel, spot: Spot) -> None:
    panel.imshow(spot.patch)
    panel.plot(*spot.outline.T, color="white", linewidth=1.8)
    panel.set_axis_off()
    panel.set_title(f"A pair: the patch around\na spot ({spot.side_um:.0f} µm) ...", loc="left")


def draw_genes(panel, spot: Spot) -> None:
    places = np.arange(len(spot.genes))
    symbols, held, expected = zip(*spot.genes, strict=True)
    panel.barh(places, held, 0.62, color=style.BLUE, label="transcripts in the spot")
    looks = {"marker": "|", "s": 130, "color": style.VERMILION, "linewidth": 2, "zorder": 3}
    panel.scatter(expected, places, label="expected from the section", **looks)
    panel.set_yticks(places, symbols, style="italic")
    panel.invert_yaxis()
    style.plain_rows(panel)
    panel.set_axisbelow(True)
    panel.set_title("... and its genes,\nthe leading ones", loc="left", x=-0.25)
    legend_below(panel)


def draw_recall(panel, rows: Sequence[Mapping]) -> None:
    pairs = list(dict.fromkeys(row["gene_encoder"] for row in rows))
    directions = {"i2g": "image finds genes", "g2i": "genes find image"}
    within = ", these donors" if "within these donors" in rows[0]["ci_over"] else ""
    interval = f"95 % interval{within}"
    for row in rows:
        side = list(directions).index(row["direction"])
        place = pairs.index(row["gene_encoder"]) + (side - 0.5) * 0.38
        label = directions[row["direction"]] if row["gene_encoder"] == pairs[0] else None
        colour = style.DIRECTION_COLOURS[row["direction"]]
        panel.barh(place, row[SCORE], 0.34, color=colour, label=label)
        bounds = [row[f"{SCORE}_ci_low"], row[f"{SCORE}_ci_high"]]
        panel.plot(bounds, [place] * 2, color=style.BLACK, linewidth=1.3, label=interval)
        interval = None  # named once
        at = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "size": 9}
        panel.annotate(f"{row[SCORE]:.2f}", (bounds[1], place), **at)
    chance = rows[0][f"{SCORE}_chance"]
    panel.axvline(chance, color=style.VERMILION, linewidth=2, label=f"chance, {chance:.3f}")
    panel.set_yticks(range(len(pairs)), [title(pair).replace(", ", ",\n") for pair in pairs])
    panel.set_ylim(len(pairs) - 0.45, -0.55)
    panel.set_xlim(0, panel.get_xlim()[1] * 1.15)
    style.plain_rows(panel)
    panel.set_axisbelow(True)
    size = rows[0]["gallery_size"]
    panel.set_title(f"Partner among the first\n5 of {size:.0f} test spots", loc="left", x=-0.25)
    legend_below(panel)


def legend_below(panel) -> None:
    place = {"loc": "upper left", "bbox_to_anchor": (-0.3, -0.08)}
    panel.legend(frameon=False, fontsize=8.5, **place)


def title(gene_encoder: str) -> str:
    """An encoder's title, from its file."""
    return specs.read_encoder(ROOT / "config/encoders", "gene", gene_encoder)["title"]


def alt_text(spot: Spot, rows: Sequence[Mapping]) -> str:
    """What the picture shows, for who can't see it."""
    best = {row["direction"]: row for row in rows if row["gene_encoder"] == rows[0]["gene_encoder"]}
    genes = ", ".join(symbol for symbol, *_ in spot.genes[:3])
    size, chance = rows[0]["gallery_size"], rows[0][f"{SCORE}_chance"]
    found = (
        f"{best['i2g'][SCORE]:.0%} of the images and {best['g2i'][SCORE]:.0%} of the gene profiles"
    )
    return (
        f"Left: a simulated H&E section of a test donor with {len(spot.outlines)} spots. Middle: one "
        f"of them, whose leading genes are {genes}. Right: the best pair of encoders finds the partner "
        f"among the first 5 of {size:.0f} spots for {found}; chance is {chance:.1%}."
    )


if __name__ == "__main__":
    program.run(main)

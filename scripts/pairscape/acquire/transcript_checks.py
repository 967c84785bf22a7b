"""Checks of a bundle's transcripts."""

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pairscape.acquire import bundle as xenium
from pairscape.acquire import columns as kinds
from pairscape.acquire.alignment import um_to_he_px
from pairscape.acquire.findings import few_words
from pairscape.core.errors import InputError
from pairscape.core.logs import progress

GOOD_QV = 20  # 10x Genomics counts transcripts from this Phred value on
QV_RANGE = (0, 40)
IDS_KEPT = 1 << 22  # transcript ids that are compared with each other
SAMPLED_ROWS = 20_000  # of each sampled place of the table
MAX_CELL_UM = 50  # from the centre of a cell to its farthest common transcripts


@dataclass(frozen=True)
class Place:
    """Where transcripts may lie: on the morphology image and, by the matrix, on the H&E; what isn't
    known is None.
    """

    pixel_size_um: float | None
    image_size: tuple[int, int] | None
    matrix: np.ndarray | None  # H&E pixels to morphology pixels
    he_size: tuple[int, int] | None
    he_image: str | None

    def count(self, tally: Counter, xy_um: np.ndarray, good_um: np.ndarray) -> None:
        """Count the transcripts outside of the morphology image, and the good ones outside of the
        H&E, as they are and as they would be the other way round.
        """
        size = self.pixel_size_um
        if self.image_size and size:
            # A pixel of slack: coordinates and image size are both rounded.
            far = np.array(self.image_size) * size + size
            least, most = xy_um.min(axis=0), xy_um.max(axis=0)
            for key, end in (("outside", far), ("outside, swapped", far[::-1])):
                if (least < -size).any() or (most > end).any():
                    tally[key] += int(((xy_um < -size) | (xy_um > end)).any(axis=1).sum())
        if self.matrix is not None and self.he_size and len(good_um):
            backwards = np.linalg.inv(self.matrix)
            for key, way in (("outside H&E", self.matrix), ("outside H&E, inverse", backwards)):
                he = um_to_he_px(way, size, good_um)
                outside = int(((he < 0) | (he >= self.he_size)).any(axis=1).sum())
                tally[key] += outside
                if not outside:
                    break  # the other way round matters only where this one is wrong


def check_transcripts(findings, facts, bundle, genes, place: Place) -> None:
    """Every transcript: its values, its gene, its id, and where it lies."""
    path = xenium.find_transcripts(bundle)
    names, rows = xenium.transcript_columns(bundle), xenium.transcript_rows(bundle)
    rule = xenium.gene_column(names)
    columns = ["feature_name", "x_location", "y_location", "qv", rule]
    # Those that pool_spots may read are read, so that it meets nothing new.
    also = ("transcript_id", "cell_id", "overlaps_nucleus")
    columns += [name for name in also if name in names]
    facts |= {"transcripts_from": path.name, "genes_by": rule}
    tally: Counter = Counter()
    named: set = set()  # genes of any quality
    others: set = set()  # what else is named
    detected: set = set()  # genes of good quality
    ids = _Ids()
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    total = -(-rows // xenium.BATCH_ROWS) if rows else None
    for batch in progress(xenium.iter_transcripts(bundle, columns), "checking", total, "batch"):
        x, y, qv = (
            batch.column(name).to_numpy(zero_copy_only=False)
            for name in ("x_location", "y_location", "qv")
        )
        finite = np.isfinite(x) & np.isfinite(y)
        is_gene = xenium.gene_rows(batch)
        good = is_gene & (qv >= GOOD_QV) & finite
        tally["rows"] += len(batch)
        tally["not finite"] += len(batch) - int(finite.sum())
        tally["bad qv"] += int(len(qv) - ((qv >= QV_RANGE[0]) & (qv <= QV_RANGE[1])).sum())
        tally["gene"] += int(is_gene.sum())
        tally["good"] += int(good.sum())
        feature = batch.column("feature_name")
        codes = feature.indices.fill_null(len(feature.dictionary)).to_numpy(zero_copy_only=False)
        words = [*feature.dictionary.to_pylist(), None]
        for kept, chosen in ((named, is_gene), (others, ~is_gene), (detected, good)):
            kept |= {words[code] for code in np.flatnonzero(np.bincount(codes[chosen]))}
        if "transcript_id" in columns:
            ids.add(batch.column("transcript_id"))
        if not finite.any():
            continue
        xy = np.column_stack([x, y]) if finite.all() else np.column_stack([x, y])[finite]
        low, high = np.minimum(low, xy.min(axis=0)), np.maximum(high, xy.max(axis=0))
        place.count(tally, xy, np.column_stack([x[good], y[good]]))

    facts |= {
        "transcripts": tally["rows"],
        "gene_transcripts": tally["gene"],
        "gene_transcripts_q20": tally["good"],
        "genes_detected": len(detected if genes is None else detected & genes),
    }
    if np.isfinite(low).all():
        facts["x_um"] = [float(low[0]), float(high[0])]
        facts["y_um"] = [float(low[1]), float(high[1])]

    def add(level, field, found, expected, remedy, file=path):
        findings.add(level, file, field, found, remedy, expected)

    _tell_values(add, tally)
    unknown = sorted(str(name) for name in named if genes is not None and name not in genes)
    if unknown:
        found = (
            f"{len(unknown)} genes that {facts['panel_from']} doesn't list ({few_words(unknown)})"
        )
        remedy = f"use the {facts['panel_from']} of this bundle"
        add("error", "feature_name", found, "genes of the panel", remedy)
    denied = sorted((others - named) & (genes or set()))
    if denied:
        found = f"{len(denied)} genes of the panel only in rows of no gene ({few_words(denied)})"
        remedy = "expect no counts of these genes, or mend that column"
        add("warning", rule, found, "rows of a gene", remedy)
    _tell_places(add, facts, tally, place)
    repeated, share = ids.repeated()
    if repeated:
        level = "error" if share > 0.01 else "warning"
        found = f"{share:.2%} of the rows with an id that stood before"
        remedy = "fetch the file again: rows that stand twice count twice"
        add(level, "transcript_id", found, "each id once", remedy)
    _check_totals(findings, bundle, tally["good"])


def _tell_values(add, tally: Counter) -> None:
    if tally["not finite"]:
        found = f"{tally['not finite']} rows without a finite value"
        add("error", "x_location, y_location", found, "numbers", xenium.DAMAGED)
    if tally["bad qv"]:
        found = f"{tally['bad qv']} rows outside"
        add("error", "qv", found, "{} to {}".format(*QV_RANGE), xenium.DAMAGED)
    if not tally["good"]:
        found = f"none of quality {GOOD_QV} or more among {tally['rows']} rows"
        add("error", "gene transcripts", found, "some", "leave the sample out")
    elif tally["good"] < tally["gene"] / 2:
        found = f"{tally['good']} of {tally['gene']} of quality {GOOD_QV} or more"
        add("warning", "qv", found, "half or more", "expect few transcripts a spot")


def _tell_places(add, facts, tally: Counter, place: Place) -> None:
    if tally["outside"]:
        level = "error" if tally["outside"] > 0.01 * tally["rows"] else "warning"
        size = "{} x {} px of {:g} um".format(*place.image_size, place.pixel_size_um)
        found = f"{tally['outside']} rows outside of the morphology image"
        remedy = "make sure that transcripts, image and pixel size are of one bundle"
        if level == "error" and tally["outside, swapped"] < 0.1 * tally["outside"]:
            remedy = "swap x_location and y_location: the other way round they lie inside"
        add(level, "x_location, y_location", found, size, remedy)
    if place.matrix is not None and place.he_size and tally["good"]:
        share = tally["outside H&E"] / tally["good"]
        facts["transcripts_outside_he"] = share
        if share > 0.01:
            level = "error" if share > 0.5 else "warning"
            found = f"{share:.0%} of the gene transcripts outside of the image"
            remedy = "make sure that image and alignment belong to this bundle"
            if tally["outside H&E, inverse"] < 0.1 * tally["outside H&E"]:
                remedy = "give the inverse of the alignment: with it they lie on the image"
            add(level, "extent", found, "the whole Xenium region on it", remedy, place.he_image)


class _Ids:
    """Counts repeated ids in bounded memory: of many, a fixed share by their hash is compared."""

    def __init__(self):
        self.kept, self.size, self.limit = [], 0, np.uint64(2**64 - 1)

    def add(self, column) -> None:
        if not pa.types.is_integer(column.type):
            return
        ids = column.drop_null().to_numpy(zero_copy_only=False).astype(np.uint64)
        mixed = ids * np.uint64(0x9E3779B97F4A7C15)  # wraps; odd, so no two ids become one
        self.kept.append(mixed[mixed <= self.limit])
        self.size += len(self.kept[-1])
        while self.size > IDS_KEPT:
            self.limit >>= np.uint64(1)
            kept = np.concatenate(self.kept)
            self.kept = [kept[kept <= self.limit]]
            if len(self.kept[0]) == self.size:
                break  # one id many times over: no share of the hashes would be smaller
            self.size = len(self.kept[0])

    def repeated(self) -> tuple[int, float]:
        """How many of the ids that were compared stood before, and their share."""
        kept = np.concatenate(self.kept) if self.kept else np.empty(0, np.uint64)
        again = len(kept) - len(np.unique(kept))
        return again, again / max(len(kept), 1)


def _check_totals(findings, bundle, good: int) -> None:
    """The number of good transcripts against what the bundle's own summary says."""
    path = Path(bundle) / "metrics_summary.csv"
    column = "total_high_quality_decoded_transcripts"
    try:
        with open(path, newline="", encoding="utf-8") as handle:
            stated = float(next(csv.DictReader(handle))[column])
    except (OSError, StopIteration, KeyError, TypeError, ValueError):
        return  # another version's summary, or none
    if good and abs(stated / good - 1) > 0.01:
        findings.add(
            "warning",
            xenium.find_transcripts(bundle),
            "gene transcripts",
            f"{good} of quality {GOOD_QV} or more",
            "make sure that the table is whole and of this run",
            f"{stated:.0f} as metrics_summary.csv says",
        )


def check_transcripts_of_cells(findings, facts, bundle, cells) -> None:
    """A seeded sample of the transcripts in cells lies where the cells of their ids are."""
    if cells is None or "cell_id" not in xenium.transcript_columns(bundle):
        return
    import pandas as pd

    ids, places = [], []
    for batch in _sampled_transcripts(bundle, ["cell_id", "x_location", "y_location"]):
        inside = xenium.cell_rows(batch)
        column = batch.column("cell_id").filter(pa.array(inside))
        ids += [str(value) for value in column.to_pylist()]
        xy = [batch.column(axis).to_numpy(zero_copy_only=False) for axis in batch.schema.names[1:]]
        places.append(np.column_stack(xy)[inside])
    if not ids:
        return
    xy_um = np.concatenate(places).astype(float)
    centres = cells.drop_duplicates("cell_id").set_index("cell_id")[["x_centroid", "y_centroid"]]
    centres_um = centres.reindex(pd.Index(ids)).to_numpy(float)
    known = np.isfinite(centres_um).all(axis=1) & np.isfinite(xy_um).all(axis=1)
    path = xenium.find_transcripts(bundle)
    remedy = "make sure that transcripts and cells come from one run of the software"
    unknown = 1 - known.mean()
    if unknown > 0.01:
        found = f"{unknown:.0%} of {len(ids)} sampled rows in cells that cells.parquet doesn't list"
        level = "error" if unknown > 0.5 else "warning"
        expected = "its cells"
        findings.add(level, path, "cell_id", found, remedy, expected)
    if not known.any():
        return
    away = np.median(np.hypot(*(xy_um - centres_um)[known].T))
    swapped = np.median(np.hypot(*(xy_um[:, ::-1] - centres_um)[known].T))
    facts["transcript_to_cell_um"] = float(away)
    if away > MAX_CELL_UM:
        if swapped <= MAX_CELL_UM:
            remedy = "swap x_location and y_location: the other way round they lie in their cells"
        found = f"transcripts {away:.0f} um from the centre of their cell (median)"
        expected = f"at most {MAX_CELL_UM} um"
        findings.add("error", path, "x_location, y_location", found, remedy, expected)


def _sampled_transcripts(bundle, columns: list[str]):
    """Batches from a few seeded places of the table; of a compressed text, its beginning."""
    if xenium.find_transcripts(bundle).suffix != ".parquet":
        yield next(xenium.iter_transcripts(bundle, columns, SAMPLED_ROWS))
        return
    path = xenium.find_transcripts(bundle)
    with xenium.open_transcripts(bundle) as file:
        groups = file.metadata.num_row_groups
        chosen = np.random.default_rng(0).choice(groups, min(3, groups), replace=False)
        for group in sorted(chosen.tolist()):
            try:
                rows = file.iter_batches(SAMPLED_ROWS, [group], columns, use_threads=False)
                batch = kinds.convert(next(rows), path)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, StopIteration) as error:
                field = f"row group {group}"
                raise InputError(path, field, str(error), xenium.DAMAGED) from None
            yield batch

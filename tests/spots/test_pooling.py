"""Pooling against a slow reference, over everything that a preset can say."""

import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairscape.acquire import bundle as xenium
from pairscape.acquire.alignment import he_px_to_um
from pairscape.core.errors import InputError
from pairscape.spots import counting, pooling
from pairscape.spots import lattice as lattice_spots
from pairscape.spots.preset import WORDS, SpotPreset

GENES = ["ALPHA", "BETA", "GAMMA"]
PIXEL_SIZE_UM = 0.2125
CELLS = [f"aaaaaaa{letter}-1" for letter in "abcdefghijklmnop"]


def turned(degrees, he_um_per_px=0.37, mirrored=False):
    """An alignment of an H&E that is turned and moved against the Xenium frame."""
    a = math.radians(degrees)
    linear = np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])
    linear = linear @ np.diag([-1.0 if mirrored else 1.0, 1.0]) * he_um_per_px / PIXEL_SIZE_UM
    return np.block([[linear, np.array([[123.4], [-56.7]])], [np.zeros((1, 2)), np.ones((1, 1))]])


def make_rows(rows, seed):
    rng = np.random.default_rng(seed)
    names = np.array([*GENES, "NegControlProbe_1", "UnassignedCodeword_1"])
    feature = names[rng.choice(5, rows, p=[0.5, 0.2, 0.2, 0.05, 0.05])]
    # Some in heaps, so that counts differ and some spots are poor.
    spread = np.where(rng.random(rows) < 0.5, 8.0, 60.0)[:, None]
    xy = rng.integers(0, 4, (rows, 2)) * 90.0 + rng.normal(0, spread, (rows, 2)) + 30
    return pd.DataFrame(
        {
            "feature_name": feature,
            "x_location": xy[:, 0].astype(np.float32),
            "y_location": xy[:, 1].astype(np.float32),
            "qv": rng.choice([3.0, 20, 40, np.nan], rows, p=[0.2, 0.3, 0.4, 0.1]).astype("f4"),
            "cell_id": rng.choice([*CELLS, "UNASSIGNED"], rows),
            "overlaps_nucleus": rng.integers(0, 2, rows, dtype=np.uint8),
            "is_gene": np.isin(feature, GENES),
        }
    )


def as_batches(rows, batch_rows=97):
    for start in range(0, len(rows), batch_rows):
        part = pa.RecordBatch.from_pandas(rows[start : start + batch_rows], preserve_index=False)
        for name in ("feature_name", "cell_id"):
            index = part.schema.get_field_index(name)
            if pa.types.is_string(part.column(index).type):
                part = part.set_column(index, name, part.column(index).dictionary_encode())
        yield part


def lay_out(rows, preset, he_matrix, cells):
    frame = lattice_spots.xenium_frame()
    if preset["frame"] == "he_pixels":
        frame = lattice_spots.he_frame(he_matrix, PIXEL_SIZE_UM)
    nothing = (math.inf, math.inf, -math.inf, -math.inf)
    xy = rows[["x_location", "y_location"]].to_numpy()
    if preset["origin"] == "min_transcript":
        frame = frame._replace(origin=np.array(lattice_spots.widen_bounds(nothing, xy, frame)[:2]))
    bounds = lattice_spots.widen_bounds(nothing, np.vstack([xy, cells[1]]), frame)
    return lattice_spots.lattice(
        preset["shape"], preset["size_um"], preset["pitch_um"], bounds, preset["lattice"], frame
    )


def place(u, v, preset, unit_um):
    """Row, column, and the offsets from the spot's centre; written for clarity alone."""
    pitch, half = preset["pitch_um"] / unit_um, preset["size_um"] / unit_um / 2
    if preset["lattice"] == "square":
        row, col = math.floor(v / pitch), math.floor(u / pitch)
        centre = (col + 0.5) * pitch, (row + 0.5) * pitch
    else:
        near = []
        about = math.floor(v / pitch / 0.75**0.5)
        for row in range(about - 2, about + 3):
            for col in range(2 * math.floor(u / pitch) - 3, 2 * math.floor(u / pitch) + 5):
                if (row - col) % 2 == 0:
                    x, y = col * pitch / 2, pitch / (2 * 3**0.5) + row * pitch * 3**0.5 / 2
                    near.append((math.hypot(u - x, v - y), -col, row, (x, y)))  # right of an edge
        _, col, row, centre = min(near)
        col = -col
    du, dv = u - centre[0], v - centre[1]
    inside = True
    if preset["shape"] == "circle":
        inside = math.hypot(du, dv) <= half
    elif preset["shape"] == "square" and preset["size_um"] < preset["pitch_um"]:
        inside = -half <= du < half and -half <= dv < half
    return (row, col, centre) if inside else None


def reference(rows, preset, he_matrix, cells, tissue_of):
    """Counts by spot name, their centres in µm, and rows by reason."""
    centroid_of = dict(zip(*cells, strict=True))

    def units(xy):
        if preset["frame"] == "xenium_um":
            return np.asarray(xy, float)
        moved = np.column_stack([np.asarray(xy, float) / PIXEL_SIZE_UM, np.ones(len(xy))])
        return np.linalg.solve(he_matrix, moved.T).T[:, :2]

    unit_um = 1.0
    if preset["frame"] == "he_pixels":
        unit_um = PIXEL_SIZE_UM * math.sqrt(abs(np.linalg.det(he_matrix[:2, :2])))
    stored = rows[["x_location", "y_location"]].to_numpy(float)
    origin = units(stored).min(axis=0) if preset["origin"] == "min_transcript" else np.zeros(2)
    where = stored
    if preset["assigned"] == "cells_within":
        where = np.array(
            [centroid_of.get(c, p) for c, p in zip(rows["cell_id"], stored, strict=True)]
        )
    points = units(where) - origin
    dropped = dict.fromkeys(pooling.REASONS, 0)
    spots = {}
    for i, row in enumerate(rows.itertuples()):
        in_cell = row.cell_id != "UNASSIGNED"
        if not row.is_gene:
            dropped["not_a_gene"] += 1
        elif preset["min_qv"] > 0 and not row.qv >= preset["min_qv"]:
            dropped["low_quality"] += 1
        elif not {"all": True, "nuclei": row.overlaps_nucleus == 1}.get(
            preset["assigned"], in_cell
        ):
            dropped["unassigned"] += 1
        elif (found := place(*points[i], preset, unit_um)) is None:
            dropped["outside_spots"] += 1
        else:
            r, c, centre = found
            spot = spots.setdefault(f"{r:03d}x{c:03d}", [np.zeros(len(GENES), int), centre])
            spot[0][GENES.index(row.feature_name)] += 1
    for name, (counts, centre) in list(spots.items()):
        centre_um = np.array([centre]) + origin
        if preset["frame"] == "he_pixels":
            centre_um = he_px_to_um(he_matrix, PIXEL_SIZE_UM, centre_um)
        spots[name][1] = centre_um[0]
        if preset["min_tissue"] is not None and tissue_of(centre_um)[0] < preset["min_tissue"]:
            dropped["no_tissue"] += spots.pop(name)[0].sum()
        elif counts.sum() < preset["min_transcripts"]:
            dropped["in_dropped_spots"] += spots.pop(name)[0].sum()
    return spots, dropped


def some_tissue(xy_um):
    return (np.sin(xy_um[:, 0] / 70) + np.cos(xy_um[:, 1] / 90) + 2) / 4


@st.composite
def presets(draw):
    shape, lattice = draw(
        st.sampled_from(
            [
                ("square", "square"),
                ("hexagon", "hexagonal"),
                ("circle", "square"),
                ("circle", "hexagonal"),
            ]
        )
    )
    size_um = draw(st.floats(9, 160))
    wider = 1.0 if shape == "hexagon" else draw(st.sampled_from([1.0, 1.3, 100 / 55]))
    return {
        "shape": shape,
        "lattice": lattice,
        "size_um": size_um,
        "pitch_um": size_um * wider,
        "frame": draw(st.sampled_from(["xenium_um", "he_pixels"])),
        "origin": draw(st.sampled_from(["zero", "min_transcript"])),
        "assigned": draw(st.sampled_from(WORDS["assigned"])),
        "min_qv": draw(st.sampled_from([0, 20, 40])),
        "min_transcripts": draw(st.sampled_from([1, 2, 5])),
        "min_tissue": draw(st.sampled_from([None, 0.3, 0.6])),
    }


@given(presets(), st.integers(0, 10_000), st.floats(-180, 180), st.booleans())
def test_every_preset_equals_a_slow_reference_and_adds_up(preset, seed, degrees, mirrored):
    rows = make_rows(200, seed)
    he_matrix = turned(degrees, mirrored=mirrored)
    cells = CELLS, np.random.default_rng(seed).uniform(-80, 420, (len(CELLS), 2))
    layout = lay_out(rows, preset, he_matrix, cells)
    truth, dropped = reference(rows, preset, he_matrix, cells, some_tissue)

    def pooled_now():
        return pooling.pool(
            as_batches(rows),
            layout,
            GENES,
            SpotPreset(**preset),
            cells=cells,
            tissue_of=None if preset["min_tissue"] is None else some_tissue,
        )

    if not truth:
        with pytest.raises(InputError, match="no spot with"):
            pooled_now()
        return
    pooled = pooled_now()
    names = pooled.layout["spot"].tolist()
    assert sorted(names) == sorted(truth)
    assert np.array_equal(pooled.counts.toarray(), [truth[name][0] for name in names])
    centres = np.column_stack([pooled.layout["x_um"], pooled.layout["y_um"]])
    np.testing.assert_allclose(centres, [truth[name][1] for name in names], atol=1e-6)
    assert pooled.dropped == dropped
    assert pooled.rows_read == 200 == pooled.pooled + sum(pooled.dropped.values())
    assert pooled.pooled == pooled.counts.sum()
    if layout.gapless:
        assert pooled.dropped["outside_spots"] == 0


@given(st.integers(1, 60), st.floats(4, 200), st.integers(0, 10_000))
def test_given_circles_equal_a_slow_reference(number, size_um, seed):
    rows = make_rows(200, seed)
    centres = np.random.default_rng(seed).uniform(-50, 400, (number, 2))
    layout = lattice_spots.circles(centres, [f"s{i}" for i in range(number)], size_um)
    xy = rows[["x_location", "y_location"]].to_numpy(float)
    distance = np.hypot(*(xy[:, None] - centres).transpose(2, 0, 1))
    nearest = distance.argmin(axis=1)
    good = rows["is_gene"] & (rows["qv"] >= 20) & (distance.min(axis=1) <= size_um / 2)
    truth = np.zeros((number, len(GENES)), int)
    np.add.at(truth, (nearest[good], [GENES.index(g) for g in rows["feature_name"][good]]), 1)
    if not truth.any():
        with pytest.raises(InputError, match="no spot with"):
            pooling.pool(as_batches(rows), layout, GENES, SpotPreset())
        return
    pooled = pooling.pool(as_batches(rows), layout, GENES, SpotPreset())
    assert np.array_equal(pooled.counts.toarray(), truth)
    assert pooled.rows_read == pooled.pooled + sum(pooled.dropped.values())


def one_spot_each(layout, points):
    """The spot of each point, by pooling one transcript at a time."""
    rows = make_rows(len(points), 0).assign(feature_name="ALPHA", is_gene=True, qv=np.float32(40))
    rows[["x_location", "y_location"]] = np.asarray(points, np.float32)
    return [
        pooling.pool(as_batches(rows[i : i + 1]), layout, GENES, SpotPreset()).layout["spot"][0]
        for i in range(len(points))
    ]


def test_hexagons_are_numbered_from_zero_and_tile_the_plane():
    layout = lattice_spots.lattice("hexagon", 60, 60, (0, 0, 300, 300))
    assert one_spot_each(layout, [(0, 0), (0, 52), (31, 52), (61, 1)]) == [
        "000x000",
        "001x001",
        "001x001",
        "000x002",
    ]
    import shapely

    spots = np.arange(layout.spots)
    corners = lattice_spots.outline_um(layout)
    tiles = shapely.polygons(lattice_spots.spot_centres_um(layout, spots)[:, None] + corners)
    box = shapely.box(0, 0, 300, 300)
    cut = shapely.intersection(tiles, box)
    np.testing.assert_allclose(shapely.area(cut).sum(), 300 * 300)  # neither gap nor overlap
    np.testing.assert_allclose(shapely.area(shapely.union_all(cut)), 300 * 300)
    points = np.random.default_rng(0).uniform(0, 300, (40, 2))
    rows, cols = lattice_spots._places(layout, spots)
    names = [f"{r:03d}x{c:03d}" for r, c in zip(rows, cols, strict=True)]
    for point, name in zip(points, one_spot_each(layout, points), strict=True):
        assert shapely.contains_xy(tiles[names.index(name)], *point)


def test_visium_circles_stand_a_pitch_apart_in_six_directions():
    layout = lattice_spots.lattice("circle", 55, 100, (0, 0, 900, 900), "hexagonal")
    centres = lattice_spots.spot_centres_um(layout, np.arange(layout.spots))
    inner = centres[((centres > 200) & (centres < 700)).all(axis=1)]
    distance = np.hypot(*(inner[:, None] - centres).transpose(2, 0, 1))
    assert ((distance > 99.999) & (distance < 100.001)).sum(axis=1).tolist() == [6] * len(inner)
    assert (np.sort(distance, axis=1)[:, 1] > 99.999).all()


def test_inner_points_lie_within_the_spot_and_cover_it():
    import shapely

    frame = lattice_spots.he_frame(turned(30), PIXEL_SIZE_UM)
    for shape in ("square", "hexagon", "circle"):
        layout = lattice_spots.lattice(shape, 50, 50, (0, 0, 300, 300), frame=frame)
        points = lattice_spots.inner_points_um(layout)
        corners = lattice_spots.outline_um(layout)
        outline = shapely.Point(0, 0).buffer(25) if corners is None else shapely.Polygon(corners)
        assert len(points) >= 36
        assert shapely.contains_xy(outline.buffer(0.1), *points.T).all()
        np.testing.assert_allclose(points.mean(axis=0), 0, atol=1e-9)
        area = {"square": 2500, "hexagon": 2500 * 3**0.5 / 2, "circle": math.pi * 625}[shape]
        np.testing.assert_allclose(outline.area, area, rtol=0.01)


def test_integer_cell_ids_are_told_from_minus_one():
    rows = make_rows(200, 1)
    numbers = np.where(rows["cell_id"] == "UNASSIGNED", -1, np.arange(200) % 16).astype(np.int32)
    rows = rows.assign(cell_id=numbers)
    cells = [str(i) for i in range(16)], np.random.default_rng(0).uniform(0, 300, (16, 2))
    preset = {"shape": "square", "lattice": "square", "size_um": 55, "pitch_um": 55}
    layout = lay_out(rows, preset | {"frame": "xenium_um", "origin": "zero"}, None, cells)
    for assigned in ("cells", "cells_within"):
        pooled = pooling.pool(
            as_batches(rows),
            layout,
            GENES,
            SpotPreset(min_qv=0, assigned=assigned),
            cells=cells,
        )
        assert pooled.dropped["unassigned"] == (rows["is_gene"] & (numbers == -1)).sum() > 0
        assert pooled.pooled == (rows["is_gene"] & (numbers >= 0)).sum()


def test_a_transcript_of_an_unlisted_cell_is_refused():
    rows = make_rows(200, 1)
    layout = lattice_spots.lattice("square", 55, 55, (-300, -300, 700, 700))
    with pytest.raises(InputError, match=r"cell_id: found cell aaaaaaa.-1, which cells.parquet"):
        pooling.pool(
            as_batches(rows),
            layout,
            GENES,
            SpotPreset(assigned="cells_within"),
            cells=(CELLS[:5], np.zeros((5, 2))),
        )


def test_rows_beyond_the_extent_that_the_file_states_are_refused():
    layout = lattice_spots.lattice("square", 55, 55, (0, 0, 100, 100))
    with pytest.raises(InputError, match="smaller extent than that of the rows"):
        pooling.pool(as_batches(make_rows(200, 1)), layout, GENES, SpotPreset())


def test_a_count_beyond_int32_is_an_error_not_a_wrap():
    small = np.array([[7, 0]], np.uint8)
    places = np.array([0], np.int64)
    for times, largest in (((1 << 23) - 1, (1 << 31) - 249), (1 << 23, (1 << 31) + 7)):
        indices, data = np.empty(1, np.int32), np.empty(1, np.int32)
        found = counting._fill_csr(small, np.array([0]), places, np.array([times]), indices, data)
        assert found == largest
    carries = np.zeros(1 << 23, np.int64)
    with pytest.raises(OverflowError, match="int32"):
        counting.to_csr(small, np.array([0]), np.array([1]), carries)


def test_the_pooled_columns_are_those_that_the_preset_needs():
    names = ["feature_name", "x_location", "y_location", "qv", "cell_id", "codeword_category"]
    assert "cell_id" not in lattice_spots.columns_needed(names)
    assert lattice_spots.columns_needed(names, "cells")[-2:] == ["codeword_category", "cell_id"]
    assert lattice_spots.columns_needed(names, "nuclei")[-1] == "overlaps_nucleus"
    assert xenium.gene_column(["feature_name"]) in lattice_spots.columns_needed(["feature_name"])

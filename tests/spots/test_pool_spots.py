import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import tiny_bundle
from PIL import Image

import pool_spots
import show_spots
from pairscape.acquire import bundle as xenium
from pairscape.core import files, tsv
from pairscape.core.errors import InputError
from pairscape.spots import lattice, pooling, spot_figure
from pairscape.spots.preset import SpotPreset
from pairscape.spots.spots_zarr import read_spots

SECTIONS = ["C2", "C3", "C4", "C5"]
GENES = sorted(tiny_bundle.GENES)


def stream(bundle, batch_rows=3000):
    names = xenium.open_transcripts(bundle).schema_arrow.names
    columns = ["feature_name", "x_location", "y_location", "qv", xenium.gene_column(names)]
    return xenium.iter_transcripts(bundle, list(dict.fromkeys(columns)), batch_rows)


def pool(bundle, layout, min_qv=20, min_transcripts=1):
    preset = SpotPreset(min_qv=min_qv, min_transcripts=min_transcripts)
    return pooling.pool(stream(bundle), layout, GENES, preset)


def make(tmp_path, transcripts=None):
    return tiny_bundle.write_bundle(tmp_path / "bundle", transcripts)


def brute_force(transcripts, spot_of_row):
    """Counts by pandas; ``spot_of_row`` gives a name, or None outside."""
    good = transcripts[transcripts["is_gene"] & (transcripts["qv"] >= 20)]
    spots = good.apply(spot_of_row, axis=1)
    inside = spots.notna()
    table = pd.crosstab(spots[inside], good.loc[inside, "feature_name"])
    return table.reindex(columns=GENES, fill_value=0), int((~inside).sum())


def as_table(pooled):
    spots = pd.Index(pooled.layout["spot"], name=None)
    return pd.DataFrame(pooled.counts.toarray(), spots, GENES)


@pytest.mark.parametrize(
    ("shape", "size_um", "pitch_um"),
    [("square", 55, 55), ("square", 30, 55), ("circle", 55, 55), ("circle", 40, 61.7)],
)
def test_counts_on_a_lattice_equal_those_of_a_plain_loop(tmp_path, shape, size_um, pitch_um):
    transcripts = tiny_bundle.make_transcripts(4000)
    bundle = make(tmp_path, transcripts)

    def spot(row):
        x, y = float(row["x_location"]), float(row["y_location"])
        r, c = int(np.floor(y / pitch_um)), int(np.floor(x / pitch_um))
        dx, dy = x - (c + 0.5) * pitch_um, y - (r + 0.5) * pitch_um
        if shape == "circle":
            inside = dx * dx + dy * dy <= (size_um / 2) ** 2
        else:
            inside = size_um == pitch_um or max(abs(dx), abs(dy)) < size_um / 2
        return f"{r:03d}x{c:03d}" if inside else None

    truth, outside = brute_force(transcripts, spot)
    bounds = pooling.transcript_bounds(bundle)
    pooled = pool(bundle, lattice.lattice(shape, size_um, pitch_um, bounds))
    found = as_table(pooled)
    assert found.index.tolist() == sorted(truth.index)
    assert np.array_equal(found.to_numpy(), truth.loc[found.index].to_numpy())
    assert pooled.dropped["outside_spots"] == outside
    assert pooled.dropped["not_a_gene"] == (~transcripts["is_gene"]).sum()
    assert (
        pooled.dropped["low_quality"] == (transcripts["is_gene"] & (transcripts["qv"] < 20)).sum()
    )
    assert pooled.counts.dtype == np.int32


def test_tiles_begin_at_zero_and_their_rule_is_float64_of_the_stored_float32(tmp_path):
    pitch_um = 0.1  # float32(0.3) lies above 3 pitches, its double 0.3 doesn't
    x = np.array([0, 0.05, 0.1, 0.3, 0.7, 0.8999999], np.float32)
    transcripts = tiny_bundle.make_transcripts(len(x)).assign(
        feature_name="ALPHA", is_gene=True, qv=np.float32(40), x_location=x, y_location=x[0]
    )
    bundle = make(tmp_path, transcripts)
    layout = lattice.lattice("square", pitch_um, pitch_um, pooling.transcript_bounds(bundle))
    pooled = pool(bundle, layout)
    expected, counts = np.unique(np.floor(x.astype(np.float64) / pitch_um), return_counts=True)
    assert pooled.layout["array_col"].tolist() == expected.tolist()
    assert pooled.layout["array_row"].tolist() == [0] * len(expected)
    assert pooled.counts.sum(axis=1).ravel().tolist()[0] == counts.tolist()
    np.testing.assert_allclose(pooled.layout["x_um"], (expected + 0.5) * pitch_um)


@pytest.mark.parametrize("repeats", [255, 256, 257, 512, 70_000])
def test_no_count_overflows(tmp_path, repeats):
    many = tiny_bundle.make_transcripts(repeats).assign(
        feature_name="BETA", is_gene=True, qv=np.float32(40)
    )
    many["x_location"], many["y_location"] = np.float32(60), np.float32(5)
    few = many.head(3).assign(feature_name="ALPHA")
    other = many.head(2).assign(x_location=np.float32(5))
    bundle = make(tmp_path, pd.concat([many, few, other]))
    pooled = pool(bundle, lattice.lattice("square", 55, 55, (0, 0, 100, 100)))
    assert as_table(pooled).loc["000x001", ["ALPHA", "BETA"]].tolist() == [3, repeats]
    assert as_table(pooled).loc["000x000", ["ALPHA", "BETA"]].tolist() == [0, 2]
    assert pooled.counts.nnz == 3
    assert pooled.pooled == repeats + 5


def test_poor_spots_are_dropped_and_their_rows_accounted_for(tmp_path):
    bundle = make(tmp_path, tiny_bundle.make_transcripts(3000))
    layout = lattice.lattice("square", 55, 55, pooling.transcript_bounds(bundle))
    everything = as_table(pool(bundle, layout)).sum(axis=1)
    limit = int(everything.median())
    pooled = pool(bundle, layout, min_transcripts=limit)
    assert as_table(pooled).index.tolist() == everything[everything >= limit].index.tolist()
    assert pooled.dropped["in_dropped_spots"] == everything[everything < limit].sum()
    assert pooled.spots_dropped == (everything < limit).sum()
    assert pooled.rows_read == 3000 == pooled.pooled + sum(pooled.dropped.values())


def test_given_circles_count_each_transcript_once_in_the_nearest(tmp_path):
    transcripts = tiny_bundle.make_transcripts(4000)
    bundle = make(tmp_path, transcripts)
    rng = np.random.default_rng(3)
    centres = np.vstack([rng.uniform(-20, 445, (60, 2)), [[2000.0, 2000.0]]])
    names = [f"s{i}" for i in range(len(centres))]

    def spot(row):
        distance = ((centres - [float(row["x_location"]), float(row["y_location"])]) ** 2).sum(1)
        nearest = int(np.argmin(distance))
        return names[nearest] if distance[nearest] <= 30.0**2 else None

    truth, outside = brute_force(transcripts, spot)
    pooled = pool(bundle, lattice.circles(centres, names, 60.0))
    assert pooled.layout["spot"].tolist() == names
    assert np.array_equal(as_table(pooled), truth.reindex(names, fill_value=0))
    assert pooled.dropped["outside_spots"] == outside
    assert pooled.dropped["in_dropped_spots"] == 0
    assert pooled.counts[-1].nnz == 0  # an empty spot stays


@pytest.mark.parametrize("section", SECTIONS)
def test_counts_around_real_spot_centres_equal_the_truth(shared, section):
    folder = shared / "data" / "her2st-xenium"
    truth = pd.read_csv(folder / "truth" / f"{section}_spots.tsv", sep="\t")
    bundle = folder / section / "outs"
    genes = sorted(gene["gene_symbol"] for gene in xenium.read_panel(bundle))
    centres = truth[["xenium_um_x", "xenium_um_y"]].to_numpy()
    layout = lattice.circles(centres, truth["spot"], 100.0)
    pooled = pooling.pool(stream(bundle), layout, genes, SpotPreset())
    assert pooled.layout["spot"].tolist() == truth["spot"].tolist()
    assert np.array_equal(pooled.counts.toarray(), truth[genes])
    without_filter = pooling.pool(stream(bundle), layout, genes, SpotPreset(min_qv=0))
    assert not np.array_equal(without_filter.counts.toarray(), truth[genes])


def test_bounds_are_the_same_with_and_without_statistics(tmp_path):
    transcripts = tiny_bundle.make_transcripts(3000)
    bundle = make(tmp_path, transcripts)
    with_them = pooling.transcript_bounds(bundle)
    tiny_bundle.write_transcripts(bundle, transcripts, write_statistics=False)
    assert (
        pq.ParquetFile(bundle / "transcripts.parquet").metadata.row_group(0).column(4).statistics
        is None
    )
    assert pooling.transcript_bounds(bundle) == with_them
    axes = transcripts[["x_location", "y_location"]].to_numpy(float)
    assert with_them == (*axes.min(axis=0), *axes.max(axis=0))


def run(bundle, out, *, sample="S1", spots=None, he=None, **options):
    flags = [f"--bundle={bundle}", f"--spots={out / 'spots.zarr'}"]
    flags += [f"--audit={out / 'audit.json'}", f"--table={out / 'qc.tsv'}"]
    if he:
        flags += [f"--he-image={he[0]}", f"--he-alignment={he[1]}"]
    values = {"sample": {"sample": sample}, "spots_name": "test", "spots": spots or {}, **options}
    pool_spots.main([*flags, "--options", json.dumps(values)])
    return read_spots(out / "spots.zarr"), files.read_json(out / "audit.json")


def show(bundle, out, he=None, **options):
    flags = [f"--bundle={bundle}", f"--spots={out / 'spots.zarr'}", f"--table={out / 'qc.tsv'}"]
    flags += [f"--he-image={he[0]}"] if he else []
    figure = out / "qc.png"
    show_spots.main([*flags, f"--figure={figure}", "--options", json.dumps(options)])
    with Image.open(figure) as image:
        return image.info["Gene"], np.asarray(image)


@pytest.mark.parametrize("frame", ["xenium_um", pytest.param("he_pixels", marks=pytest.mark.slow)])
def test_the_figure_shows_the_gene_asked_for_else_the_one_that_varies_most(tmp_path, frame):
    bundle, he = make(tmp_path), tiny_bundle.write_he(tmp_path)
    out = tmp_path / "out"
    table, _ = run(bundle, out, he=he, spots={"frame": frame})
    gene, figure = show(bundle, out, he)
    other = next(name for name in GENES if name != gene)
    assert gene == spot_figure.choose_gene(table.X, GENES)
    told, changed = show(bundle, out, he, overlay_gene=other)
    assert told == other
    assert not np.array_equal(changed, figure)
    _, again = show(bundle, out, he)
    assert np.array_equal(again, figure)
    _, without_he = show(bundle, out)
    assert not np.array_equal(without_he, figure)


def test_the_figure_names_every_axis_and_has_no_tick_at_half_a_transcript(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn, save = [], Figure.savefig

    def keep(figure, *args, **kwargs):
        drawn.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    bundle = make(tmp_path)
    run(bundle, tmp_path / "out")
    show(bundle, tmp_path / "out")
    named = {(axes.get_xlabel(), axes.get_ylabel()): axes for axes in drawn[0].get_axes()}
    assert sum(axes.get_xlabel() == "x (µm)" for axes in drawn[0].get_axes()) == 2
    assert all(y == "y (µm)" for x, y in named if x == "x (µm)")
    bars = [axes for (_, y), axes in named.items() if y.startswith("transcripts per")]
    assert len(bars) == 2
    for bar in bars:
        assert len(ticks := bar.get_yticks())
        assert all(tick == int(tick) for tick in ticks)


def test_the_program_writes_what_a_reader_of_spatialdata_opens(tmp_path):
    import spatialdata
    from spatialdata.transformations import get_transformation

    bundle = make(tmp_path)
    table, audit = run(bundle, tmp_path / "out", he=tiny_bundle.write_he(tmp_path))
    data = spatialdata.read_zarr(tmp_path / "out" / "spots.zarr")
    assert set(data.coordinate_systems) == {"xenium_um", "global", "he_px"}
    outlines = data.shapes["spots"]
    assert outlines.index.tolist() == table.obs_names.tolist()
    np.testing.assert_allclose(outlines.geometry.area, 55.0**2)
    np.testing.assert_allclose(outlines.geometry.centroid.x, table.obs["x_um"])
    assert np.array_equal(data.tables["counts"].X.toarray(), table.X.toarray())
    corner = spatialdata.transform(outlines, to_coordinate_system="he_px").geometry.iloc[0].bounds
    # The H&E is turned by 90 degrees: x_he = y_um + margin, y_he = side + margin - x_um.
    x_um, y_um = table.obs[["x_um", "y_um"]].iloc[0]
    middle = [(y_um + 20) / 0.5, (tiny_bundle.SIDE_UM + 20 - x_um) / 0.5]
    found = [(corner[0] + corner[2]) / 2, (corner[1] + corner[3]) / 2]
    np.testing.assert_allclose(found, middle, atol=1e-6)
    scale = get_transformation(outlines, "global").to_affine_matrix(("x", "y"), ("x", "y"))
    np.testing.assert_allclose(scale[0, 0], 1 / tiny_bundle.PIXEL_SIZE_UM)

    assert table.var_names.tolist() == GENES
    assert table.var.loc["BETA", "gene_id"] == "ENSG00000000001"
    attrs = table.uns["pairscape"]
    assert attrs["sample"] == "S1"
    assert attrs["preset"]["size_um"] == 55
    assert attrs["pixel_size_um"] == tiny_bundle.PIXEL_SIZE_UM
    assert attrs["audit_sha256"] == files.sha256_json(audit)
    assert np.array_equal(table.obs["genes"], (table.X.toarray() > 0).sum(axis=1))
    assert audit["spots"] == table.n_obs
    assert audit["rows_read"] == 20_000 == audit["pooled"] + sum(audit["dropped"].values())
    assert audit["transcripts_per_spot"]["median"] == np.median(table.obs["transcripts"])
    path = bundle / "transcripts.parquet"
    assert audit["inputs"]["transcripts.parquet"] == files.sha256_file(path)


def test_the_program_pools_around_real_centres(shared, tmp_path):
    import spatialdata

    folder = shared / "data" / "her2st-xenium"
    he = folder / "C3" / "C3_he_image.ome.tif", folder / "C3" / "C3_he_imagealignment.csv"
    centres = {
        "file": str(folder / "truth" / "{sample}_spots.tsv"),
        "x": "xenium_um_x",
        "y": "xenium_um_y",
        "name": "spot",
    }
    preset = {"shape": "circle", "size_um": 100, "centres": centres}
    bundle = folder / "C3" / "outs"
    table, _audit = run(bundle, tmp_path, sample="C3", spots=preset, he=he)
    truth = pd.read_csv(folder / "truth" / "C3_spots.tsv", sep="\t", index_col="spot")
    assert table.obs_names.tolist() == truth.index.tolist()
    assert np.array_equal(table.X.toarray(), truth[table.var_names])
    assert show(bundle, tmp_path, he, overlay_gene="ERBB2")[0] == "ERBB2"
    outlines = spatialdata.read_zarr(tmp_path / "spots.zarr").shapes["spots"]
    assert outlines["radius"].unique().tolist() == [50.0]
    points = spatialdata.transform(outlines, to_coordinate_system="he_px").geometry
    np.testing.assert_allclose(points.x, truth["he_px_x"], atol=0.01)
    np.testing.assert_allclose(points.y, truth["he_px_y"], atol=0.01)


def test_a_bundle_without_he_or_cells_is_pooled_too(shared, tmp_path):
    table, audit = run(shared / "data" / "xenium-mouse-ileum-tiny", tmp_path)
    assert table.X.sum() == audit["pooled"] == 531
    assert table.uns["pairscape"]["he_matrix"] is None
    bundle = make(tmp_path)
    (bundle / "cells.parquet").unlink()
    run(bundle, tmp_path / "out")
    assert show(bundle, tmp_path / "out")[0] in GENES


def read_qc(folder):
    rows = tsv.read_tsv(folder / "qc.tsv", ["sample", "spots", "of", "measure", "value"])
    return {(row["of"], row["measure"]): row["value"] for row in rows}


def test_the_published_preset_has_the_geometry_of_the_published_data(tmp_path):
    """Against HEST's way: H&E pixels, grid from the least transcript on, no filter."""
    import yaml
    from conftest import ROOT

    config = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
    transcripts = tiny_bundle.make_transcripts(4000)
    # The least x and y of the H&E belong to a control and to a poor transcript.
    transcripts.loc[0, ["feature_name", "is_gene"]] = ["NegControlProbe_00001", False]
    transcripts.loc[0, ["x_location", "y_location"]] = [200, 2]
    transcripts.loc[1, ["x_location", "y_location", "qv"]] = [424, 200, 1]
    inside = transcripts.index >= 2
    transcripts.loc[inside, "x_location"] = transcripts.loc[inside, "x_location"].clip(0, 420)
    transcripts.loc[inside, "y_location"] = transcripts.loc[inside, "y_location"].clip(9, 425)
    transcripts["x_location"] = transcripts["x_location"].astype(np.float32)
    transcripts["y_location"] = transcripts["y_location"].astype(np.float32)
    bundle = make(tmp_path, transcripts)
    he = tiny_bundle.write_he(tmp_path)
    table, audit = run(bundle, tmp_path / "out", spots=config["spots"]["published55"], he=he)

    # The H&E is turned by 90 degrees: x_he = y_um + margin, y_he = side + margin - x_um.
    he_x = (transcripts["y_location"].to_numpy(float) + 20) / 0.5
    he_y = (tiny_bundle.SIDE_UM + 20 - transcripts["x_location"].to_numpy(float)) / 0.5
    side_px = 55 / 0.5
    col = np.floor((he_x - he_x.min()) / side_px + 1e-12).astype(int)
    row = np.floor((he_y - he_y.min()) / side_px + 1e-12).astype(int)
    genes = transcripts["is_gene"].to_numpy()
    names = np.array([f"{r:03d}x{c:03d}" for r, c in zip(row, col, strict=True)])
    truth = pd.crosstab(names[genes], transcripts["feature_name"][genes])
    assert table.obs_names.tolist() == truth.index.tolist()
    assert np.array_equal(table.X.toarray(), truth.reindex(columns=GENES, fill_value=0))
    assert audit["dropped"]["low_quality"] == 0
    np.testing.assert_allclose(audit["lattice"]["origin"], [he_x.min(), he_y.min()])
    assert audit["lattice"]["um_per_unit"] == pytest.approx(0.5)
    # A step of the grid is 55 um, along the axes of the H&E.
    place = table.obs[["array_row", "array_col"]].to_numpy()
    expected = [
        tiny_bundle.SIDE_UM + 20 - 0.5 * he_y.min() - 55 * (place[:, 0] + 0.5),
        0.5 * he_x.min() + 55 * (place[:, 1] + 0.5) - 20,
    ]
    np.testing.assert_allclose(table.obs[["x_um", "y_um"]], np.transpose(expected), atol=1e-6)


@pytest.mark.parametrize("shape", ["square", "hexagon", "circle"])
def test_outlines_in_the_frame_of_the_he_hold_their_transcripts(tmp_path, shape):
    import shapely
    import spatialdata

    transcripts = tiny_bundle.make_transcripts(600)
    bundle = make(tmp_path, transcripts)
    he = tiny_bundle.write_he(tmp_path)
    matrix = np.loadtxt(he[1], delimiter=",")
    turn = np.radians(25)
    turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix[:2, :2] = matrix[:2, :2] @ turned
    np.savetxt(he[1], matrix, delimiter=",", fmt="%.17g")
    preset = {"shape": shape, "size_um": 60, "frame": "he_pixels"}
    table, _ = run(bundle, tmp_path / "out", spots=preset, he=he)
    outlines = spatialdata.read_zarr(tmp_path / "out" / "spots.zarr").shapes["spots"].geometry
    if shape == "circle":
        outlines = outlines.buffer(30, quad_segs=256)
    good = transcripts[transcripts["is_gene"] & (transcripts["qv"] >= 20)]
    points = shapely.points(good["x_location"], good["y_location"])
    within = [int(shapely.contains(outline, points).sum()) for outline in outlines]
    assert within == table.obs["transcripts"].tolist()


def test_spots_on_glass_are_dropped_and_their_rows_accounted_for(tmp_path):
    import tifffile

    bundle = make(tmp_path)
    _, he_alignment = tiny_bundle.write_he(tmp_path)
    # Stained where x_um < 220, in the turned H&E: y_he = (425 + 20 - x_um) / 0.5.
    picture = np.full((930, 930, 3), 240, np.uint8)
    picture[450:] = (190, 110, 170)
    tifffile.imwrite(tmp_path / "stained.tif", picture, tile=(256, 256), photometric="rgb")
    he = tmp_path / "stained.tif", he_alignment
    everywhere, _ = run(bundle, tmp_path / "all", he=he)
    table, audit = run(bundle, tmp_path / "some", spots={"min_tissue": 0.6}, he=he)
    on_tissue = everywhere.obs["array_col"] < 4  # 4 x 55 = 220 um
    assert table.obs_names.tolist() == everywhere.obs_names[on_tissue].tolist()
    assert table.obs["tissue_fraction"].between(0.9, 1).all()
    assert audit["dropped"]["no_tissue"] == everywhere.obs["transcripts"][~on_tissue].sum() > 0
    assert audit["spots_without_tissue"] == (~on_tissue).sum()
    assert audit["rows_read"] == audit["pooled"] + sum(audit["dropped"].values())
    with pytest.raises(InputError, match=r"min_tissue: found 0\.6, but sample S1 has no H&E"):
        run(bundle, tmp_path / "none", spots={"min_tissue": 0.6})
    with pytest.raises(InputError, match="frame: found he_pixels, but sample S1 has no H&E"):
        run(bundle, tmp_path / "none", spots={"frame": "he_pixels"})
    assert not (tmp_path / "none").exists()


def test_an_alignment_by_word_places_the_grid(tmp_path):
    bundle = make(tmp_path)
    image, _ = tiny_bundle.write_he(tmp_path)
    values = {
        "sample": {"sample": "S1", "he_alignment": "microns", "he_um_per_px": "0.5"},
        "spots": {"frame": "he_pixels"},
    }
    out = tmp_path / "out"
    flags = [f"--bundle={bundle}", f"--he-image={image}", f"--spots={out / 'spots.zarr'}"]
    flags += [f"--audit={out / 'audit.json'}", f"--table={out / 'qc.tsv'}"]
    pool_spots.main([*flags, "--options", json.dumps(values)])
    by_word = read_spots(out / "spots.zarr")
    plain, _ = run(bundle, tmp_path / "plain")
    assert (by_word.X != plain.X).nnz == 0
    np.testing.assert_allclose(by_word.obs[["x_um", "y_um"]], plain.obs[["x_um", "y_um"]])


def test_cells_pooled_whole_follow_their_centroids(tmp_path):
    cells = [f"aaaaaaa{letter}-1" for letter in "abcd"]
    transcripts = tiny_bundle.make_transcripts(2000)
    transcripts["cell_id"] = np.random.default_rng(5).choice([*cells, "UNASSIGNED"], 2000)
    bundle = make(tmp_path, transcripts)
    table, audit = run(bundle, tmp_path / "out", spots={"assigned": "cells_within"})
    good = transcripts[transcripts["is_gene"] & (transcripts["qv"] >= 20)]
    truth = pd.crosstab(good["cell_id"], good["feature_name"]).reindex(columns=GENES)
    assert table.obs_names.tolist() == ["001x000", "002x002", "004x004", "006x006"]  # 50, 150, ...
    assert np.array_equal(table.X.toarray(), truth.loc[cells])
    assert audit["dropped"]["unassigned"] == truth.loc["UNASSIGNED"].sum()
    assert "cells.parquet" in audit["inputs"]


def test_the_table_compares_spots_with_cells(tmp_path):
    bundle = make(tmp_path)
    tiny_bundle.write_matrix(bundle, [f"c{i}" for i in range(4)], np.array([[1, 2, 0, 40]] * 5))
    table, audit = run(bundle, tmp_path / "out")
    qc = read_qc(tmp_path / "out")
    assert qc["rows", "read"] == "20000"
    assert int(qc["rows", "pooled"]) == audit["pooled"]
    assert sum(int(qc["rows", reason]) for reason in pooling.REASONS) == 20_000 - audit["pooled"]
    median = float(np.median(table.obs["transcripts"]))
    assert float(qc["spots", "transcripts_median"]) == median
    assert float(qc["cells", "transcripts_median"]) == 10  # of 5, 10 and 200
    assert (qc["cells", "number"], qc["cells", "empty"]) == ("4", "1")
    logs = np.log2(1 + table.obs["transcripts"].to_numpy())
    shift = np.log2(1 + np.array([5, 10, 200]))
    # Wasserstein in one dimension: the mean distance of equal quantiles.
    steps = (np.arange(30_000) + 0.5) / 30_000
    quantiles = [np.quantile(v, steps, method="inverted_cdf") for v in (logs, shift)]
    expected = np.abs(quantiles[0] - quantiles[1]).mean()
    found = float(qc["spots_vs_cells", "transcripts_wasserstein_log2"])
    assert found == pytest.approx(expected, rel=1e-3)
    below = [[(v <= at).mean() for at in (*logs, *shift)] for v in (logs, shift)]
    expected = np.abs(np.subtract(*below)).max()
    assert float(qc["spots_vs_cells", "transcripts_ks"]) == pytest.approx(expected, rel=1e-4)


def centres_file(tmp_path, text):
    (tmp_path / "centres.tsv").write_text(text)
    return {
        "shape": "circle",
        "size_um": 50,
        "centres": {"file": str(tmp_path / "centres.tsv"), "x": "x", "y": "y", "name": "spot"},
    }


@pytest.mark.parametrize(
    ("spots", "message"),
    [
        ({"shape": "octagon"}, "spots.shape: found octagon"),
        ({"size_um": -1}, "spots.size_um: found -1"),
        ({"size_um": "55"}, "spots.size_um: found '55'"),
        ({"size_um": 60, "pitch_um": 55}, "spots overlap"),
        ({"min_qv": 41}, "no spot with 1 or more of quality 41"),
        ({"min_transcripts": 0}, "spots.min_transcripts"),
        ({"min_quality": 20}, "spots.min_quality: found an unknown key"),
        ({"shape": "hexagon", "pitch_um": 60}, "hexagons have no gaps: give 55"),
        ({"shape": "square", "lattice": "hexagonal"}, "found hexagonal for shape square"),
        ({"frame": "pixels"}, "spots.frame: found pixels; use one of xenium_um, he_pixels"),
        ({"assigned": "tissue"}, "spots.assigned: found tissue"),
        ({"min_tissue": "half"}, "spots.min_tissue: found 'half'"),
        ("spot\tx\ty\n", "no finite number"),
        ("spot\tx\nA\t1\n", "column y: found only spot, x"),
        ("spot\tx\ty\nA\t1\tnorth\n", "could not convert string to float"),
        ("spot\tx\ty\nA\t1\tnan\n", "no finite number"),
        ("spot\tx\ty\nA\t1\t1\nA\t90\t1\n", "A twice"),
        ("spot\tx\ty\nA\t1\t1\nB\t9e9\t9e9\n", "centres too far apart"),
    ],
)
def test_a_wrong_preset_is_refused_and_nothing_written(tmp_path, spots, message):
    if isinstance(spots, str):
        spots = centres_file(tmp_path, spots)
    bundle = make(tmp_path, tiny_bundle.make_transcripts(200))
    with pytest.raises(InputError) as refusal:
        run(bundle, tmp_path / "out", spots=spots)
    assert message in str(refusal.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("x_location", np.nan, "row 150, x_location, y_location: found nan"),
        ("y_location", 1e9, "an extent of"),
        ("feature_name", "OMEGA", "row 150, feature_name: found gene OMEGA"),
        ("feature_name", None, "row 150, feature_name: found gene None"),
    ],
)
def test_a_wrong_row_is_refused_and_nothing_written(tmp_path, column, value, message):
    transcripts = tiny_bundle.make_transcripts(200).assign(is_gene=True, feature_name="BETA")
    transcripts.loc[150, column] = value
    bundle = make(tmp_path, transcripts)
    with pytest.raises(InputError) as refusal:
        run(bundle, tmp_path / "out")
    assert message in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_an_unknown_overlay_gene_is_refused(tmp_path):
    bundle = make(tmp_path)
    run(bundle, tmp_path)
    with pytest.raises(InputError, match="overlay_gene: found OMEGA"):
        show(bundle, tmp_path, overlay_gene="OMEGA")
    assert not (tmp_path / "qc.png").exists()


@pytest.mark.parametrize("part", ["tables/counts/X/data/c/0", "tables/counts/zarr.json", "tables"])
def test_damaged_spots_are_refused(tmp_path, part):
    run(make(tmp_path, tiny_bundle.make_transcripts(500)), tmp_path)
    assert (tmp_path / "spots.zarr" / part).exists()
    files.remove(tmp_path / "spots.zarr" / part)
    with pytest.raises(InputError, match=r"spots\.zarr"):
        read_spots(tmp_path / "spots.zarr")


def test_two_runs_agree(tmp_path):
    bundle = make(tmp_path)
    first, first_audit = run(bundle, tmp_path / "a")
    second, second_audit = run(bundle, tmp_path / "b")
    assert first_audit == second_audit
    assert (first.X != second.X).nnz == 0


class Harm:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "array",
    [
        {"filters": [{"id": "pickle"}], "dtype": "|O", "fill_value": None},
        {"filters": [{"id": "vlen-utf8"}], "compressor": {"id": "pickle"}, "dtype": "|O"},
        {"filters": [{"id": "vlen-utf8"}, {"id": "pickle"}], "dtype": "|O"},
        {"compressor": {"id": "pickle"}, "dtype": "|u1", "fill_value": 0},
    ],
)
def test_spots_whose_codec_unpickles_are_refused_and_nothing_runs(tmp_path, array):
    import pickle

    from pairscape.spots.spots_zarr import read_spots

    counts = tmp_path / "spots.zarr" / "tables" / "counts"
    (counts / "X").mkdir(parents=True)
    (counts / ".zgroup").write_text('{"zarr_format": 2}')
    kind = {"encoding-type": "anndata", "encoding-version": "0.1.0"}
    (counts / ".zattrs").write_text(json.dumps(kind))
    facts = {"zarr_format": 2, "shape": [1], "chunks": [1], "order": "C", "compressor": None}
    (counts / "X" / ".zarray").write_text(json.dumps(facts | {"fill_value": ""} | array))
    kind = {"encoding-type": "array", "encoding-version": "0.2.0"}
    (counts / "X" / ".zattrs").write_text(json.dumps(kind))
    (counts / "X" / "0").write_bytes(pickle.dumps(Harm(tmp_path / "harm")))
    with pytest.raises(InputError, match="tables/counts: found"):
        read_spots(tmp_path / "spots.zarr")
    assert not (tmp_path / "harm").exists()

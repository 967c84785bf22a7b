import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import tiny_bundle

import pool_spots
from pairscape import bundle as xenium
from pairscape import files, pooling
from pairscape.errors import InputError
from pairscape.spots import read_spots

SECTIONS = ["C2", "C3", "C4", "C5"]
GENES = sorted(tiny_bundle.GENES)


def stream(bundle, batch_rows=3000):
    names = xenium.open_transcripts(bundle).schema_arrow.names
    columns = ["feature_name", "x_location", "y_location", "qv", xenium.gene_column(names)]
    return xenium.iter_transcripts(bundle, list(dict.fromkeys(columns)), batch_rows)


def pool(bundle, layout, min_qv=20, min_transcripts=1):
    return pooling.pool(
        stream(bundle), layout, GENES, min_qv=min_qv, min_transcripts=min_transcripts
    )


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
    pooled = pool(bundle, pooling.lattice(shape, size_um, pitch_um, bounds))
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
    layout = pooling.lattice("square", pitch_um, pitch_um, pooling.transcript_bounds(bundle))
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
    pooled = pool(bundle, pooling.lattice("square", 55, 55, (0, 0, 100, 100)))
    assert as_table(pooled).loc["000x001", ["ALPHA", "BETA"]].tolist() == [3, repeats]
    assert as_table(pooled).loc["000x000", ["ALPHA", "BETA"]].tolist() == [0, 2]
    assert pooled.counts.nnz == 3
    assert pooled.pooled == repeats + 5


def test_poor_spots_are_dropped_and_their_rows_accounted_for(tmp_path):
    bundle = make(tmp_path, tiny_bundle.make_transcripts(3000))
    layout = pooling.lattice("square", 55, 55, pooling.transcript_bounds(bundle))
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
    pooled = pool(bundle, pooling.circles(centres, names, 60.0))
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
    layout = pooling.circles(centres, truth["spot"], 100.0)
    pooled = pooling.pool(stream(bundle), layout, genes, min_qv=20, min_transcripts=1)
    assert pooled.layout["spot"].tolist() == truth["spot"].tolist()
    assert np.array_equal(pooled.counts.toarray(), truth[genes])
    without_filter = pooling.pool(stream(bundle), layout, genes, min_qv=0, min_transcripts=1)
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
    flags += [f"--audit={out / 'audit.json'}", f"--figure={out / 'qc.png'}"]
    if he:
        flags += [f"--he-image={he[0]}", f"--he-alignment={he[1]}"]
    values = {"sample": {"sample": sample}, "spots_name": "test", "spots": spots or {}, **options}
    pool_spots.main([*flags, "--options", json.dumps(values)])
    return read_spots(out / "spots.zarr"), files.read_json(out / "audit.json")


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
    assert (tmp_path / "out" / "qc.png").read_bytes()[:4] == b"\x89PNG"


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
    table, audit = run(bundle, tmp_path, sample="C3", spots=preset, he=he, overlay_gene="ERBB2")
    truth = pd.read_csv(folder / "truth" / "C3_spots.tsv", sep="\t", index_col="spot")
    assert table.obs_names.tolist() == truth.index.tolist()
    assert np.array_equal(table.X.toarray(), truth[table.var_names])
    assert audit["overlay_gene"] == "ERBB2"
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
    assert (tmp_path / "out" / "qc.png").exists()


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
        ({"shape": "hexagon"}, "spots.shape: found hexagon"),
        ({"size_um": -1}, "spots.size_um: found -1"),
        ({"size_um": "55"}, "spots.size_um: found '55'"),
        ({"size_um": 60, "pitch_um": 55}, "spots overlap"),
        ({"min_qv": 41}, "no spot with 1 or more of quality 41"),
        ({"min_transcripts": 0}, "spots.min_transcripts"),
        ({"min_quality": 20}, "spots.min_quality: found an unknown key"),
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
    with pytest.raises(InputError, match="overlay_gene: found OMEGA"):
        run(make(tmp_path), tmp_path / "out", overlay_gene="OMEGA")


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
    assert (tmp_path / "a" / "qc.png").read_bytes() == (tmp_path / "b" / "qc.png").read_bytes()

"""simulate_bundle: the files of the instrument, the truth in them, and what each knob does."""

import csv
import json
import zipfile
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
from scipy import sparse

import simulate_bundle
from pairscape.core.errors import InputError
from pairscape.simulation import bundle_images, histology, knobs, programmes, tissue, transcripts
from pairscape.simulation.kinds import KINDS
from pairscape.simulation.panel import read_panel_table

PANEL = Path(__file__).parents[2] / "config/published/panels/human-breast-panel.tsv"
SAMPLE = {"sample": "mini", "donor": "donor-one", "panel": "human-breast-panel"}
SMALL = {"width_um": 330, "height_um": 280, "transcripts_per_spot": 120}
TABLES = ("transcripts", "cells", "cell_boundaries", "nucleus_boundaries")


def simulate(folder, simulation=SMALL, panel=PANEL, **options) -> Path:
    given = {"sample": SAMPLE, "seed": 5, "simulation": simulation} | options
    simulate_bundle.main(
        ["--panel", str(panel), "--bundle", str(folder), "--options", json.dumps(given)]
    )
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return simulate(tmp_path_factory.mktemp("simulated") / "mini")


def grown(simulation, sample="a", donor="d", seed=1):
    """Knobs, seeds, the tissue of the transcripts, and that of the image."""
    chosen = knobs.resolve_knobs(simulation)
    seeds = knobs.sample_seeds(seed, sample, donor)
    latent = tissue.grow_tissue(chosen, seeds["expression"])
    return chosen, seeds, latent, tissue.mix_tissues(chosen, latent, seeds["image"])


def molecules_of(chosen, seeds, latent):
    symbols, _, means = read_panel_table(PANEL)
    made = programmes.gene_programmes(symbols, means, seeds)
    shift = programmes.donor_shift(symbols, chosen, seeds)
    drawn = transcripts.draw_transcripts(latent, chosen, seeds, made, shift)
    return drawn, drawn["feature"] < len(symbols)


def tile_sums(x_um, y_um, chosen, side_um=55.0, weights=None):
    """Sums over the whole tiles of the region, as a flat array."""
    edges = [np.arange(0, chosen[side] + 1e-6, side_um) for side in ("height_um", "width_um")]
    return np.histogram2d(y_um, x_um, bins=edges, weights=weights)[0].ravel()


def read_tsv(path):
    with open(path, newline="") as handle:
        return list(csv.DictReader(handle, delimiter="\t"))


# The bundle against its truth


def test_truth_equals_a_slow_loop_over_the_transcripts(bundle):
    genes = [row["gene_symbol"] for row in read_tsv(bundle / "truth/genes.tsv")]
    grid = json.loads((bundle / "truth/tissue.json").read_text())["grid"]
    expected = np.zeros((grid["rows"] * grid["columns"], len(genes)), int)
    column = {name: i for i, name in enumerate(genes)}
    for row in pq.read_table(bundle / "transcripts.parquet").to_pylist():
        if row["is_gene"] and row["qv"] >= 20:
            tile = int(row["y_location"] // 55) * grid["columns"] + int(row["x_location"] // 55)
            expected[tile, column[row["feature_name"]]] += 1
    truth = sparse.load_npz(bundle / "truth/counts.npz")
    assert expected.sum() > 2000
    np.testing.assert_array_equal(truth.toarray(), expected)
    spots = read_tsv(bundle / "truth/spots.tsv")
    assert [int(spot["transcripts"]) for spot in spots] == expected.sum(axis=1).tolist()
    assert [(int(spot["row"]), int(spot["col"])) for spot in spots[:7]] == [
        *((0, c) for c in range(6)), (1, 0)
    ]  # fmt: skip


def test_cell_matrix_holds_the_good_transcripts_of_each_cell(bundle):
    table = pq.read_table(bundle / "transcripts.parquet").to_pandas()
    table = table[(table.qv >= 20) & (table.cell_id != "UNASSIGNED")]
    with h5py.File(bundle / "cell_feature_matrix.h5") as file:
        group = file["matrix"]
        matrix = sparse.csc_matrix(
            (group["data"][:], group["indices"][:], group["indptr"][:]), shape=group["shape"][:]
        )
        names = group["features/name"][:].astype(str)
        barcodes = group["barcodes"][:].astype(str)
        gene_rows = group["features/feature_type"][:] == b"Gene Expression"
    counted = table.groupby(["feature_name", "cell_id"]).size()
    assert matrix.sum() == len(table)
    assert matrix.nnz == len(counted)
    row, col = {n: i for i, n in enumerate(names)}, {n: i for i, n in enumerate(barcodes)}
    for (name, cell), count in counted.items():
        assert matrix[row[name], col[cell]] == count
    cells = pq.read_table(bundle / "cells.parquet").to_pandas()
    assert cells.cell_id.tolist() == barcodes.tolist()
    per_cell = np.asarray(matrix[np.flatnonzero(gene_rows)].sum(axis=0)).ravel()
    assert cells.transcript_counts.tolist() == per_cell.tolist()
    assert cells.total_counts.tolist() == np.asarray(matrix.sum(axis=0)).ravel().tolist()


def test_transcripts_lie_in_the_outlines_of_their_cells(bundle):
    import shapely

    def polygons(name):
        table = pq.read_table(bundle / f"{name}_boundaries.parquet").to_pandas()
        return {
            cell: shapely.Polygon(ring[["vertex_x", "vertex_y"]])
            for cell, ring in table.groupby("cell_id")
        }

    cells, nuclei = polygons("cell"), polygons("nucleus")
    assert all(shape.is_valid and shape.area > 0 for shape in [*cells.values(), *nuclei.values()])
    assert all(cells[name].buffer(0.01).contains(nuclei[name]) for name in list(cells)[::5])
    overlap = (
        sum(shape.area for shape in cells.values()) - shapely.union_all(list(cells.values())).area
    )
    assert overlap < 1e-3 * sum(shape.area for shape in cells.values())
    table = pq.read_table(bundle / "transcripts.parquet").to_pandas()
    for row in table[table.cell_id != "UNASSIGNED"].iloc[::40].itertuples():
        point = shapely.Point(row.x_location, row.y_location)
        assert cells[row.cell_id].distance(point) < 0.3
        if row.overlaps_nucleus:
            assert nuclei[row.cell_id].distance(point) < 0.3
    assert 0.06 < (table.cell_id == "UNASSIGNED").mean() < 0.6


def test_rasters_carry_the_labels_of_the_outlines(bundle):
    import zarr

    store = zarr.storage.ZipStore(bundle / "cells.zarr.zip", read_only=True)
    group = zarr.open_group(store, mode="r")
    cells = group["masks/1"][:]
    nuclei = group["masks/0"][:]
    assert cells.shape == (int(np.ceil(280 / 0.2125)), int(np.ceil(330 / 0.2125)))
    n = pq.read_table(bundle / "cells.parquet").num_rows
    assert set(np.unique(cells)) == set(range(n + 1))
    assert (cells[nuclei > 0] == nuclei[nuclei > 0]).mean() > 0.999
    names = list(zipfile.ZipFile(bundle / "cells.zarr.zip").namelist())
    assert len(set(names)) == len(names)
    truth = read_tsv(bundle / "truth/cells.tsv")
    for label in range(0, n, 7):
        x, y = (float(truth[label][axis]) for axis in ("x_um", "y_um"))
        assert cells[int(y / 0.2125), int(x / 0.2125)] == label + 1


# The files as the instrument writes them


def test_tables_have_the_columns_and_types_of_a_real_bundle(bundle, shared):
    real = shared / "data/xenium-mouse-ileum-tiny"
    for name in TABLES:
        ours, theirs = (pq.ParquetFile(at / f"{name}.parquet") for at in (bundle, real))
        assert ours.schema_arrow.equals(theirs.schema_arrow)
        assert ours.schema.equals(theirs.schema)
        ours_types, their_types = (file.read().to_pandas().dtypes for file in (ours, theirs))
        assert ours_types.equals(their_types)
    assert pq.ParquetFile(bundle / "transcripts.parquet").metadata.num_row_groups > 1


def test_other_files_have_the_layout_of_a_real_bundle(bundle, shared):
    real = shared / "data/xenium-mouse-ileum-tiny"

    def h5_layout(path):
        found = {}
        with h5py.File(path) as file:
            file.visititems(
                lambda name, item: found.update(
                    {name: item.dtype.kind + str(item.ndim) if hasattr(item, "dtype") else None}
                )
            )
            return found, sorted(file.attrs)

    def zarr_layout(path):
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if n.rpartition("/")[2].startswith(".z")]
            types = {n: json.loads(archive.read(n)).get("dtype") for n in names if "array" in n}
            return sorted(names), types

    def keys(value):
        if isinstance(value, dict):
            return {key: keys(inner) for key, inner in value.items()}
        return type(value) if not isinstance(value, int | float) else float

    matrix, cells = "cell_feature_matrix.h5", "cells.zarr.zip"
    assert h5_layout(bundle / matrix) == h5_layout(real / matrix)
    assert zarr_layout(bundle / cells) == zarr_layout(real / cells)
    experiments = [json.loads((at / "experiment.xenium").read_text()) for at in (bundle, real)]
    assert keys(experiments[0]) == keys(experiments[1])
    heads = [(at / "metrics_summary.csv").read_text().split("\n")[0] for at in (bundle, real)]
    assert heads[0] == heads[1]
    panels = [json.loads((at / "gene_panel.json").read_text()) for at in (bundle, real)]
    assert keys(panels[0]["payload"]) == keys(panels[1]["payload"])
    targets = [
        {t["type"]["descriptor"]: keys(t["type"]) for t in panel["payload"]["targets"]}
        for panel in panels
    ]
    assert targets[0] == targets[1]


def test_spatialdata_opens_the_bundle_with_its_aligned_image(bundle):
    import spatialdata_io
    from spatialdata.transformations import get_transformation

    data = spatialdata_io.xenium(bundle)
    assert data["table"].shape == (pq.read_table(bundle / "cells.parquet").num_rows, 280)
    assert len(data["transcripts"]) == pq.read_metadata(bundle / "transcripts.parquet").num_rows
    assert {"morphology_focus", "he_image"} <= set(data.images)
    assert {"cell_labels", "nucleus_labels"} <= set(data.labels)
    assert {"cell_boundaries", "nucleus_boundaries"} <= set(data.shapes)
    matrix = get_transformation(data["he_image"]).to_affine_matrix(("x", "y"), ("x", "y"))
    truth = json.loads((bundle / "truth/tissue.json").read_text())
    np.testing.assert_allclose(matrix, truth["he_to_morphology"])


def test_images_are_tiled_pyramids_with_physical_sizes(bundle):
    for path, um_per_px, name in (
        (bundle / "mini_he_image.ome.tif", 0.5, "JPEG"),
        (bundle / "morphology_focus/morphology_focus_0000.ome.tif", 0.2125, "ADOBE_DEFLATE"),
    ):
        with tifffile.TiffFile(path) as tif:
            assert tif.is_ome
            assert tif.pages[0].is_tiled
            assert tif.pages[0].compression.name == name
            levels = tif.series[0].levels
            assert len(levels) > 1
            assert len(tif.pages[0].subifds) == len(levels) - 1
            for large, small in pairwise(levels):
                assert small.shape[:2] == (large.shape[0] // 2, large.shape[1] // 2)
            assert f'PhysicalSizeX="{um_per_px}"' in tif.ome_metadata
            assert tif.pages[0].asarray().std() > 5


def test_dapi_shines_where_the_nuclei_are(bundle):
    image = tifffile.imread(bundle / "morphology_focus/morphology_focus_0000.ome.tif")
    cells = read_tsv(bundle / "truth/cells.tsv")
    at = [[int(float(cell[axis]) / 0.2125) for cell in cells] for axis in ("y_um", "x_um")]
    assert np.median(image[tuple(at)]) > 5 * np.median(image)


def test_bad_and_control_transcripts_are_marked_as_such(bundle):
    table = pq.read_table(bundle / "transcripts.parquet").to_pandas()
    genes = {row["gene_symbol"] for row in read_tsv(bundle / "truth/genes.tsv")}
    assert (table.is_gene == table.feature_name.isin(genes)).all()
    assert (table.is_gene == (table.codeword_category == "predesigned_gene")).all()
    prefixes = {
        "negative_control_probe": "NegControlProbe_",
        "negative_control_codeword": "NegControlCodeword_",
        "unassigned_codeword": "UnassignedCodeword_",
        "genomic_control_probe": "Intergenic_Region_",
        "deprecated_codeword": "DeprecatedCodeword_",
    }
    for category, prefix in prefixes.items():
        names = table.feature_name[table.codeword_category == category]
        assert names.str.startswith(prefix).all()
    assert table.groupby("feature_name").codeword_index.nunique().max() == 1
    assert (table.qv == 20).any()
    assert table.qv.between(0, 40).all()
    assert not table.transcript_id.duplicated().any()


def test_same_options_make_the_same_bytes_and_another_seed_others(bundle, tmp_path):
    again = simulate(tmp_path / "again")
    files = sorted(p.relative_to(bundle) for p in bundle.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    for name in files:
        assert (bundle / name).read_bytes() == (again / name).read_bytes(), name
    other = simulate(tmp_path / "other", seed=6)
    for name in ("transcripts.parquet", "mini_he_image.ome.tif", "truth/counts.npz"):
        assert (bundle / name).read_bytes() != (other / name).read_bytes()


# The H&E and its alignment


@pytest.mark.parametrize(
    ("degrees", "mirrored", "um_per_px"), [(0, False, 0.5), (97, True, 0.4), (-30, True, 0.6)]
)
def test_matrix_takes_nuclei_to_dark_pixels(degrees, mirrored, um_per_px):
    chosen, seeds, latent, shown = grown(
        SMALL | {
            "rotation_degrees": degrees, "mirrored": mirrored,
            "he_um_per_px": um_per_px, "batch_effect": 0,
        }
    )  # fmt: skip
    frame, turned, flipped = histology.he_frame(chosen, seeds["image"])
    assert (turned, flipped) == (degrees, mirrored)
    matrix = histology.alignment_matrix(frame)
    assert np.sign(np.linalg.det(matrix)) == (-1 if mirrored else 1)
    assert np.sqrt(abs(np.linalg.det(matrix[:2, :2]))) * 0.2125 == pytest.approx(um_per_px)
    stain = histology.donor_stain(chosen, seeds)
    picture = histology.draw_he(shown, frame, stain, seeds["image"])
    cells = latent.cells
    dense = cells["kind"] == KINDS.index("lymphocyte")
    dense &= (cells["x_um"] > 0) & (cells["x_um"] < 330) & (cells["y_um"] > 0)
    dense &= cells["y_um"] < 280
    points = np.stack([cells["x_um"][dense], cells["y_um"][dense]]) / 0.2125
    columns, rows, _ = np.linalg.inv(matrix) @ np.vstack([points, np.ones(points.shape[1])])
    grey = picture.mean(axis=2)
    assert dense.sum() > 10
    at_nuclei = grey[rows.astype(int), columns.astype(int)]
    assert np.median(at_nuclei) < np.percentile(grey[grey < 225], 12)


@pytest.mark.parametrize("degrees", [0, 45, 187])
def test_he_covers_a_patch_around_every_tile(degrees):
    chosen, seeds, _, shown = grown(SMALL | {"rotation_degrees": degrees, "tissue_cover": 1})
    frame, *_ = histology.he_frame(chosen, seeds["image"])
    x_um, y_um = (v.ravel() for v in np.meshgrid([-10.0, 345.0], [-10.0, 307.5]))
    columns, rows = frame.to_px(x_um, y_um)
    assert (columns > 112).all()
    assert (columns < frame.columns - 112).all()
    assert (rows > 112).all()
    assert (rows < frame.rows - 112).all()
    # And there is tissue out there, so that no patch tells by its edge where it was cut.
    assert (tissue.grid_value(shown, "inside_um", x_um, y_um) > 40).all()


# Knobs


def signal_between(signal):
    """Correlation of image cells and of image domains with transcripts, over tiles."""
    size = {"width_um": 1100, "height_um": 1100, "morphology_signal": signal, "tissue_cover": 1}
    chosen, seeds, latent, shown = grown(size)
    drawn, genes = molecules_of(chosen, seeds, latent)
    good = genes & (drawn["qv"] >= 20)
    sums = tile_sums(drawn["x_um"][good], drawn["y_um"][good], chosen)
    weights = programmes.RNA_CONTENT[shown.cells["kind"]]
    image = tile_sums(shown.cells["x_um"], shown.cells["y_um"], chosen, weights=weights)
    symbols, *_ = read_panel_table(PANEL)
    epcam = drawn["feature"] == symbols.index("EPCAM")
    marker = tile_sums(drawn["x_um"][good & epcam], drawn["y_um"][good & epcam], chosen)
    tumour = shown.cells["kind"] == KINDS.index("tumour")
    nests = tile_sums(shown.cells["x_um"][tumour], shown.cells["y_um"][tumour], chosen)
    return np.corrcoef(sums, image)[0, 1], np.corrcoef(marker, nests)[0, 1]


@pytest.mark.slow
def test_image_tells_of_transcripts_as_much_as_the_signal_says():
    density, marker = zip(*(signal_between(signal) for signal in (0, 0.5, 1)), strict=True)
    # 400 tiles in domains of a few tiles: chance keeps within about 0.25.
    assert abs(density[0]) < 0.25
    assert abs(marker[0]) < 0.25
    assert density[0] + 0.1 < density[1] < density[2] - 0.1
    assert marker[0] + 0.1 < marker[1] < marker[2] - 0.1
    assert density[2] > 0.7
    assert marker[2] > 0.7


def picture_of(chosen, seeds, latent):
    shown = tissue.mix_tissues(chosen, latent, seeds["image"])
    frame, *_ = histology.he_frame(chosen, seeds["image"])
    return histology.draw_he(shown, frame, histology.donor_stain(chosen, seeds), seeds["image"])


@pytest.mark.parametrize(("signal", "same"), [(0, True), (0.5, False), (1, False)])
def test_without_signal_nothing_of_tissue_or_donor_reaches_the_image(signal, same):
    chosen, seeds, latent, _ = grown(SMALL | {"morphology_signal": signal, "tissue_cover": 0.7})
    first = picture_of(chosen, seeds, latent)
    others = {
        "tissue": seeds | {"expression": [99, 9, 1]},
        "donor": seeds | {"donor": [99, 9, 5]},
    }
    for name, changed in others.items():
        other = tissue.grow_tissue(chosen, changed["expression"])
        assert np.array_equal(first, picture_of(chosen, changed, other)) == same, name
    moved = seeds | {"image": [99, 9, 2]}
    drawn = molecules_of(chosen, seeds, latent)[0]
    again = molecules_of(chosen, moved, tissue.grow_tissue(chosen, moved["expression"]))[0]
    assert all(np.array_equal(drawn[name], again[name]) for name in drawn)


def test_donors_differ_by_the_batch_effect_only():
    symbols, _, means = read_panel_table(PANEL)

    def donor(name, effect, sample="a"):
        chosen = knobs.resolve_knobs({"batch_effect": effect})
        seeds = knobs.sample_seeds(1, sample, name)
        stain = histology.donor_stain(chosen, seeds)
        return (
            np.concatenate([np.ravel(value) for value in stain]),
            programmes.donor_shift(symbols, chosen, seeds),
            programmes.gene_programmes(symbols, means, seeds)[0],
        )

    for ours, theirs in zip(donor("one", 0), donor("two", 0, "b"), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not donor("one", 0)[1].any()
    for ours, theirs in zip(donor("one", 0.3), donor("one", 0.3, "b"), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    gaps = [
        [np.abs(ours - theirs).mean()
         for ours, theirs in zip(donor("one", effect)[:2], donor("two", effect)[:2], strict=True)]
        for effect in (0.3, 1)
    ]  # fmt: skip
    assert 0 < gaps[0][0] < gaps[1][0]
    assert 0 < gaps[0][1] < gaps[1][1]
    np.testing.assert_array_equal(donor("one", 1)[2], donor("two", 0)[2])


def test_programmes_are_the_same_in_every_panel_and_sample():
    symbols, _, means = read_panel_table(PANEL)
    seeds = knobs.sample_seeds(1, "a", "d"), knobs.sample_seeds(1, "b", "e")
    whole, effect = programmes.gene_programmes(symbols, means, seeds[0])
    half, half_effect = programmes.gene_programmes(symbols[::2], means[::2], seeds[1])
    np.testing.assert_allclose(half, whole[:, ::2] / whole[:, ::2].sum(1, keepdims=True))
    np.testing.assert_array_equal(half_effect, effect[:, ::2])
    tumour, lymphocyte = (KINDS.index(kind) for kind in ("tumour", "lymphocyte"))
    epcam, cd3e = symbols.index("EPCAM"), symbols.index("CD3E")
    assert whole[tumour, epcam] > 5 * whole[lymphocyte, epcam]
    assert whole[lymphocyte, cd3e] > 5 * whole[tumour, cd3e]
    other = programmes.gene_programmes(symbols, means, knobs.sample_seeds(2, "a", "d"))[0]
    assert not np.allclose(other, whole)


@pytest.mark.parametrize("wanted", [40, 400])
@pytest.mark.parametrize("cover", [0.6, 1])
def test_a_tile_of_tissue_holds_the_transcripts_asked_for(wanted, cover):
    chosen, seeds, latent, _ = grown(
        {"width_um": 550, "height_um": 550, "transcripts_per_spot": wanted, "tissue_cover": cover}
    )
    drawn, genes = molecules_of(chosen, seeds, latent)
    found = (genes & (drawn["qv"] >= 20)).sum()
    assert found / (100 * cover) == pytest.approx(wanted, rel=0.08)


def test_gene_means_follow_the_panel():
    chosen, seeds, latent, _ = grown({"width_um": 1100, "height_um": 1100, "batch_effect": 0})
    drawn, genes = molecules_of(chosen, seeds, latent)
    means = read_panel_table(PANEL)[2]
    found = np.bincount(drawn["feature"][genes & (drawn["qv"] >= 20)], minlength=len(means))
    assert np.corrcoef(np.log(means + 0.5), np.log(found + 0.5))[0, 1] > 0.85


def test_cover_bares_the_glass_and_little_lies_on_it():
    chosen, seeds, latent, _ = grown({"width_um": 800, "height_um": 800, "tissue_cover": 0.5})
    x_um, y_um = (v.ravel() for v in np.meshgrid(np.arange(0, 800, 5.0), np.arange(0, 800, 5.0)))
    inside = tissue.grid_value(latent, "inside_um", x_um, y_um) > 0
    assert inside.mean() == pytest.approx(0.5, abs=0.02)
    drawn, genes = molecules_of(chosen, seeds, latent)
    good = genes & (drawn["qv"] >= 20)
    on = tissue.grid_value(latent, "inside_um", drawn["x_um"][good], drawn["y_um"][good]) > -5
    assert 0 < (~on).mean() < 0.02


@pytest.mark.parametrize("bad", [0, 0.35])
@pytest.mark.parametrize("control", [0, 0.1])
def test_quality_and_control_shares_are_as_asked(bad, control):
    chosen, seeds, latent, _ = grown(SMALL | {
        "low_quality_fraction": bad, "control_fraction": control, "transcripts_per_spot": 400,
    })  # fmt: skip
    drawn, genes = molecules_of(chosen, seeds, latent)
    good = drawn["qv"] >= 20
    assert (~good).mean() == pytest.approx(bad, abs=0.015)
    assert (~genes[good]).mean() == pytest.approx(control, abs=0.015)


def test_cells_are_as_many_and_domains_as_wide_as_asked():
    def cells(density):
        return len(
            grown({"width_um": 500, "height_um": 500, "cell_density": density})[2].cells["x_um"]
        )

    assert cells(0.4) < 0.75 * cells(1)

    def roughness(domain_um):
        grid = grown({"width_um": 800, "height_um": 800, "domain_um": domain_um})[2].grids["grade"]
        return np.abs(np.diff(grid, axis=1)).mean()

    assert roughness(40) == pytest.approx(3 * roughness(120), rel=0.35)


def test_region_has_the_size_asked_for(bundle):
    table = pq.read_table(bundle / "transcripts.parquet", columns=["x_location", "y_location"])
    x_um, y_um = (column.to_numpy() for column in table.columns)
    assert 320 < x_um.max() < 330
    assert 270 < y_um.max() < 280
    assert min(x_um.min(), y_um.min()) >= 0


# Refusals


@pytest.mark.parametrize(
    ("simulation", "told"),
    [
        ({"width": 300}, "simulation: found the unknown key 'width'; did you mean width_um?"),
        ({"width_um": 10}, "simulation.width_um: found 10"),
        ({"morphology_signal": 1.2}, "simulation.morphology_signal: found 1.2"),
        ({"morphology_signal": True}, "simulation.morphology_signal: found True"),
        ({"transcripts_per_spot": "many"}, "simulation.transcripts_per_spot: found 'many'"),
        ({"batch_effect": None}, "simulation.batch_effect: found None"),
        ({"mirrored": 1}, "simulation.mirrored: found 1"),
        ([], "simulation: found []"),
    ],
)
def test_wrong_knobs_are_refused_by_name(simulation, told, tmp_path):
    with pytest.raises(InputError, match=r"--options") as caught:
        simulate(tmp_path / "no", simulation)
    assert told in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"sample": {"sample": "a"}}, "sample.donor: found None"),
        ({"sample": {"sample": "a b", "donor": "d"}}, "sample.sample: found 'a b'"),
        ({"sample": None}, "sample: found None"),
        ({"seed": -1}, "seed: found -1"),
        ({"sede": 1}, "sede: found an unknown key"),
    ],
)
def test_wrong_options_are_refused_by_name(options, told, tmp_path):
    with pytest.raises(InputError) as caught:
        simulate(tmp_path / "no", **options)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (["EPCAM\tE1\tmuch", "CD3E\tE2\t1"], "mean_count_per_spot of EPCAM: found 'much'"),
        (["EPCAM\tE1\t1", "EPCAM\tE2\t1"], "gene_symbol: found EPCAM twice"),
        (["EPCAM\tE1\t0", "CD3E\tE2\t0"], "mean_count_per_spot: found only zeros"),
        (["EPCAM\tE1\t1"], "rows: found 1"),
    ],
)
def test_wrong_panel_is_refused_by_gene(rows, told, tmp_path):
    panel = tmp_path / "panel.tsv"
    panel.write_text("\n".join(["gene_symbol\tensembl_id\tmean_count_per_spot", *rows]) + "\n")
    with pytest.raises(InputError) as caught:
        simulate(tmp_path / "no", panel=panel)
    assert told in str(caught.value)
    assert not (tmp_path / "no").exists()


def test_a_failure_leaves_no_half_a_bundle(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(bundle_images, "write_he", fail)
    with pytest.raises(OSError, match="disk full"):
        simulate(tmp_path / "no")
    assert not list(tmp_path.iterdir())


def test_an_almost_empty_sample_is_still_a_bundle(tmp_path):
    sparse_sample = {
        "width_um": 110, "height_um": 110, "transcripts_per_spot": 1,
        "tissue_cover": 0.05, "cell_density": 0.1,
    }  # fmt: skip
    folder = simulate(tmp_path / "empty", sparse_sample)
    for name in TABLES:
        assert pq.read_table(folder / f"{name}.parquet").num_rows < 60 * 25

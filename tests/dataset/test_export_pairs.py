"""Pairs: the patch of a spot shows that spot, and its labels and counts are its own."""

import dataclasses
import itertools
import json
import shutil

import numpy as np
import pytest
from small_pairs import (
    GENES,
    LABELS,
    PATCHES,
    PIXEL_SIZE_UM,
    alignment_matrix,
    export_sample,
    sample_row,
    tissue_image,
    write_slide,
    write_small_spots,
    xenium_um,
)

import export_pairs
from pairscape.core.errors import InputError
from pairscape.core.options import read_schema
from pairscape.core.splits import SPLITS
from pairscape.core.tsv import read_tsv
from pairscape.dataset import cutting, pair_shards

SIZE = 900, 1000  # of the slide: height, width
ALIGNMENTS = {
    "identity": np.eye(3),
    "scale": alignment_matrix(0.2738),
    "shift": alignment_matrix(0.34, shift_px=(-321.7, 83.2)),
    "turn by 90": alignment_matrix(0.34, 90, shift_px=(1500, 0)),
    "turn by 183.2": alignment_matrix(0.34, 183.2, shift_px=(2000, 1700)),
    "turn by -37": alignment_matrix(0.41, -37),
    "mirror": alignment_matrix(0.34, 0, True, (1600, 0)),
    "mirror, turn by 88.5": alignment_matrix(0.34, 88.5, True, (100, 50)),
    "mirror, turn by 200, finer patch than slide": alignment_matrix(0.6875, 200, True),
    "mirror in y": alignment_matrix(0.3, 180, True, (0, 1500)),
    "shear-free stretch": np.diag([1.55, 1.62, 1.0]),
}


def read_images(shard):
    return [np.asarray(row["image"]) for row in pair_shards.open_shard(shard)]


def centroid(mask):
    """x and y of a mask's middle, in patch pixels (pixel i covers [i, i + 1))."""
    y, x = np.nonzero(mask)
    return np.array([x.mean() + 0.5, y.mean() + 0.5])


@pytest.mark.parametrize("kind", ALIGNMENTS)
def test_the_patch_of_a_spot_shows_the_pixels_of_that_spot(tmp_path, kind):
    matrix = ALIGNMENTS[kind]
    um_per_px = PIXEL_SIZE_UM * np.sqrt(abs(np.linalg.det(matrix[:2, :2])))
    half_px = 0.5 * 64 / um_per_px / 2
    # A red mark on each spot, and a blue one to its right and a little above, on the H&E.
    image = np.full((*SIZE, 3), (235, 225, 235), np.uint8)
    he_px = np.array([[150.3, 160.8], [700.0, 180.5], [320.6, 500.2], [840.9, 720.4], [170, 760]])
    off_centre = np.array([0.6, -0.3]) * half_px
    marks = []
    for centre in he_px:
        for colour, place in (((220, 0, 0), centre), ((0, 0, 220), centre + off_centre)):
            x, y = np.round(place).astype(int)
            image[y - 3 : y + 3, x - 3 : x + 3] = colour  # its middle is at (x, y) exactly
            marks.append((x, y))
    marks = np.array(marks, float).reshape(len(he_px), 2, 2)

    write_small_spots(tmp_path / "spots.zarr", xenium_um(matrix, he_px))
    write_slide(tmp_path / "he.ome.tif", image, um_per_px)
    np.savetxt(tmp_path / "alignment.csv", matrix, delimiter=",")
    shard = run(tmp_path)

    side_px = pair_shards.shard_metadata(shard)["patches"]["side_px"]
    assert side_px == pytest.approx(2 * half_px)
    patches = read_images(shard)
    assert len(patches) == len(he_px)
    for centre, (red, blue), patch in zip(he_px, marks, patches, strict=True):
        for channel, mark in ((0, red), (2, blue)):
            others = [other for other in range(3) if other != channel]
            found = centroid((patch[..., channel] > 120) & (patch[..., others] < 120).all(-1))
            wanted = 32 + (mark - centre) * 64 / side_px
            assert np.abs(found - wanted).max() < 1


def run(
    folder,
    genes=GENES,
    sample=None,
    labels=LABELS,
    patches=PATCHES,
    alignment=True,
    split=None,
    **flags,
):
    (folder / "genes.tsv").write_text(
        "gene_symbol\tgene_id\n" + "".join(f"{gene}\tENSG{gene}\n" for gene in genes)
    )
    options = {
        "sample": sample or sample_row(),
        "dataset": "tiny",
        "patches": patches,
        "labels": labels,
        **({"split": split} if split else {}),
    }
    files = {
        "spots": folder / "spots.zarr",
        "he-image": folder / "he.ome.tif",
        "genes": folder / "genes.tsv",
        "shard": folder / "S1.arrow",
    }
    if alignment:
        files["he-alignment"] = folder / "alignment.csv"
    files.update(flags)
    argv = [part for flag, path in files.items() if path for part in (f"--{flag}", str(path))]
    export_pairs.main([*argv, "--options", json.dumps(options)])
    return folder / "S1.arrow"


@pytest.fixture
def folder(tmp_path):
    """The inputs of a sample with five spots, the second near the edge of the slide."""
    matrix = alignment_matrix(0.34, 30, True, (900, 250))
    he_px = [[200, 200], [20, 300], [400, 350], [600, 200], [700, 500]]
    counts = np.array([[1, 2, 3, 4], [9, 9, 9, 9], [0, 0, 0, 0], [5, 0, 70000, 0], [0, 0, 0, 8]])
    write_small_spots(
        tmp_path / "spots.zarr", xenium_um(matrix, he_px), counts, names=list("abcde")
    )
    write_slide(tmp_path / "he.ome.tif", tissue_image())
    np.savetxt(tmp_path / "alignment.csv", matrix, delimiter=",")
    return tmp_path


def test_each_rows_labels_equal_its_samples(folder):
    shard = run(folder, sample=sample_row("S1", source="geo", organ="lung"))
    dataset = pair_shards.open_shard(shard)
    for row in dataset:
        assert dataset.features["name"].int2str(row["name"]) == row["sample"] == "S1"
        assert dataset.features["source"].int2str(row["source"]) == "geo"
        assert dataset.features["tissue"].int2str(row["tissue"]) == "lung"
        assert (row["donor"], row["cancer"], row["oncotree_code"]) == ("D_S1", True, "IDC")


def test_each_row_has_the_counts_of_its_spot_for_the_chosen_genes_in_order(folder):
    shard = run(folder, genes=("EPCAM", "ACTA2"))
    assert pair_shards.read_expression(shard).tolist() == [[3, 1], [0, 0], [70000, 5], [0, 0]]
    assert pair_shards.read_index(shard)["spot"].to_pylist() == ["a", "c", "d", "e"]
    assert pair_shards.shard_metadata(shard)["genes"] == ["EPCAM", "ACTA2"]


def test_spots_at_the_edge_of_the_slide_are_left_out_and_counted(folder):
    shard = run(folder)
    assert "b" not in pair_shards.read_index(shard)["spot"].to_pylist()
    assert pair_shards.shard_metadata(shard)["spots_left_out"] == 1


def test_rows_stand_in_the_order_of_the_spots_with_their_own_patch(folder):
    """Tile order differs from spot order here: the section is turned and mirrored."""
    shard = run(folder)
    table = pair_shards.read_index(shard).to_pylist()
    image = tissue_image()
    side = pair_shards.shard_metadata(shard)["patches"]["side_px"]
    for row, patch in zip(table, read_images(shard), strict=True):
        x, y = np.round(np.array(row["cell_coords"]) - side / 2).astype(int)
        box = image[y : y + round(side), x : x + round(side)]
        assert np.abs(patch.mean((0, 1)) - box.mean((0, 1))).max() < 1.5
    assert [row["array_row"] for row in table] == [0, 2, 3, 4]


def test_native_patches_are_the_slides_own_pixels(folder):
    shard = run(folder, patches={"native_px": 96, "encoding": "png"})
    image, metadata = tissue_image(), pair_shards.shard_metadata(shard)
    index = pair_shards.read_index(shard).to_pylist()
    assert [row["spot"] for row in index] == list("acde")
    for row, patch in zip(index, read_images(shard), strict=True):
        corner = np.array(row["cell_coords"]) - 48
        x, y = np.floor(corner + 0.5).astype(int)
        assert np.abs(corner - (x, y)).max() <= 0.5
        assert np.array_equal(patch, image[y : y + 96, x : x + 96])
        assert row["um_per_px"] == pytest.approx(0.34, rel=1e-5)
    assert metadata["patches"]["native_px"] == metadata["patches"]["patch_px"] == 96


def test_the_same_inputs_make_the_same_bytes(folder):
    first = run(folder).read_bytes()
    assert run(folder).read_bytes() == first


def test_a_jpeg_shard_shows_the_same_pictures_as_a_png_shard(folder):
    png = read_images(run(folder))
    jpeg = read_images(run(folder, patches={**PATCHES, "encoding": "jpeg", "quality": 95}))
    luma = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601; JPEG halves only the colour's resolution
    for one, other in zip(png, jpeg, strict=True):
        assert 0 < np.abs((one.astype(int) - other) @ luma).mean() < 4


def test_nothing_but_the_shard_and_its_checksum_stays_in_its_folder(folder):
    (folder / "shards").mkdir()
    run(folder, shard=folder / "shards" / "S1.arrow")
    names = sorted(path.name for path in (folder / "shards").iterdir())
    assert names == ["S1.arrow", "S1.arrow.sha256"]


def test_an_image_on_the_morphology_grid_needs_no_alignment_file(folder):
    he_px = [[200.5, 300.25]]
    spots = folder / "other.zarr"
    write_small_spots(spots, np.array(he_px) * PIXEL_SIZE_UM)
    sample = sample_row(he_alignment="identity")
    shard = run(folder, sample=sample, alignment=False, spots=spots, patches=PATCHES)
    assert pair_shards.read_index(shard)["cell_coords"].to_pylist() == he_px


def test_an_image_in_microns_is_placed_by_its_pixel_size(folder):
    spots = folder / "other.zarr"
    write_small_spots(spots, [[100.0, 120.0]])
    sample = sample_row(he_alignment="microns", he_um_per_px="0.34")
    shard = run(folder, sample=sample, alignment=False, spots=spots)
    placed = [[100 / 0.34, 120 / 0.34]]
    assert np.allclose(pair_shards.read_index(shard)["cell_coords"].to_pylist(), placed)
    sample = sample_row(he_alignment="microns", he_um_per_px="0.4")
    shard = run(folder, sample=sample, alignment=False, spots=spots)
    placed = [[100 / 0.4, 120 / 0.4]]  # the user's word outranks the header
    assert np.allclose(pair_shards.read_index(shard)["cell_coords"].to_pylist(), placed)


def test_a_missing_alignment_is_never_the_identity(folder):
    with pytest.raises(InputError, match="never taken for the identity"):
        run(folder, alignment=False)


@pytest.mark.parametrize("flag", [{"he-image": None}, {}])
def test_a_sample_without_an_image_is_refused_in_one_line(folder, flag):
    sample = sample_row(he_image="" if flag else "none")
    with pytest.raises(InputError, match="sample S1, he_image: found none: it has no H&E") as error:
        run(folder, sample=sample, **flag)
    assert "\n" not in str(error.value)
    assert not (folder / "S1.arrow").exists()


def test_a_gene_that_was_not_pooled_is_refused(folder):
    with pytest.raises(InputError, match="genes: found no XIST; make"):
        run(folder, genes=(*GENES, "XIST"))


def test_spots_of_another_sample_are_refused(folder):
    with pytest.raises(InputError, match="sample: found S1; give the spots of S2"):
        run(folder, sample=sample_row("S2"))


def test_a_block_holds_its_own_spots_and_none_of_another(folder, capsys):
    """A part of a sample is another sample by name, of the spots and the H&E of the whole one."""
    matrix = alignment_matrix(0.34, 0)
    he_px = [[x, y] for x in range(100, 900, 50) for y in (150, 300)]
    shutil.rmtree(folder / "spots.zarr")
    write_small_spots(folder / "spots.zarr", xenium_um(matrix, he_px))
    np.savetxt(folder / "alignment.csv", matrix, delimiter=",")
    split = {"fractions": {"train": 0.6, "val": 0.2, "test": 0.2}, "seed": 1}
    names = {part: f"S1-{part}" for part in SPLITS}
    labels = {**LABELS, "name": sorted(names.values())}
    x_um = {}
    for part, name in names.items():
        sample = sample_row(name) | {"part_of": "S1", "part": part}
        rows = pair_shards.open_shard(run(folder, sample=sample, labels=labels, split=split))
        assert {row["sample"] for row in rows} == {name}
        x_um[part] = {row["x_um"] for row in rows}
    assert all(x_um.values())
    (side_um,) = {PATCHES["patch_px"] * PATCHES["um_per_px"]}
    ordered = sorted(x_um.values(), key=min)
    for before, after in itertools.pairwise(ordered):
        assert min(after) - max(before) > side_um
    said = capsys.readouterr().err
    assert "spots in the gaps" in said
    assert "beyond the H&E" not in said


def test_a_section_too_short_for_blocks_is_refused(folder):
    split = {"fractions": {"train": 0.6, "val": 0.2, "test": 0.2}, "seed": 1}
    sample = sample_row("S1-test") | {"part_of": "S1", "part": "test"}
    labels = {**LABELS, "name": ["S1-test"]}
    wide = {"um_per_px": 4.0, "patch_px": 64, "encoding": "png"}
    with pytest.raises(InputError, match="too short for three blocks; take smaller patches"):
        run(folder, sample=sample, labels=labels, split=split, patches=wide)
    assert not (folder / "S1.arrow").exists()


def test_an_alignment_that_misses_the_slide_is_refused(folder):
    np.savetxt(
        folder / "alignment.csv", alignment_matrix(0.34, 0, False, (1e5, 1e5)), delimiter=","
    )
    with pytest.raises(InputError, match="none of 5 patches"):
        run(folder)


def test_a_label_that_is_not_in_the_sample_table_is_refused(folder):
    with pytest.raises(InputError, match=r"labels\.tissue: found no 'breast'"):
        run(folder, labels={**LABELS, "tissue": ["lung"]})
    assert not (folder / "S1.arrow").exists()


def test_a_real_section_gives_a_pair_for_each_spot_in_its_place(shared, tmp_path):
    data = shared / "data" / "her2st-xenium"
    truth = read_tsv(data / "truth" / "C5_spots.tsv")
    names = [row["spot"] for row in truth]
    xy_um = [[float(row["xenium_um_x"]), float(row["xenium_um_y"])] for row in truth]
    counts = [[int(row[gene]) for gene in ("ERBB2", "EPCAM")] for row in truth]
    write_small_spots(tmp_path / "spots.zarr", xy_um, counts, ("ERBB2", "EPCAM"), names=names)
    shard = run(
        tmp_path,
        genes=("EPCAM", "ERBB2"),
        patches={"um_per_px": 0.5, "patch_px": 224, "encoding": "jpeg", "quality": 95},
        **{"he-image": data / "C5" / "C5_he_image.ome.tif"},
        **{"he-alignment": data / "C5" / "C5_he_imagealignment.csv"},
    )
    index = pair_shards.read_index(shard).to_pylist()
    wanted = {row["spot"]: [float(row["he_px_x"]), float(row["he_px_y"])] for row in truth}
    assert [row["spot"] for row in index] == names
    for row in index:
        assert np.allclose(row["cell_coords"], wanted[row["spot"]], atol=0.05)
    assert np.array_equal(pair_shards.read_expression(shard), np.array(counts)[:, ::-1])
    # Spots were placed on tissue by the authors.
    assert np.median([row["tissue_fraction"] for row in index]) > 0.5


def test_the_small_sample_of_the_other_tests_exports(tmp_path):
    assert pair_shards.read_shard_table(export_sample(tmp_path)).num_rows == 9


def test_a_patch_preset_has_the_keys_and_defaults_of_the_schema():
    properties = read_schema("config")["$defs"]["patches"]["properties"]
    preset = dataclasses.asdict(cutting.PatchPreset())
    assert preset == {key: part.get("default") for key, part in properties.items()}


def test_patches_that_show_more_than_the_he_are_to_blame_themselves(folder):
    with pytest.raises(InputError) as error:
        run(folder, patches=PATCHES | {"um_per_px": 50})
    assert "--options: patches.um_per_px, patch_px: found none of" in str(error.value)
    assert "make the patches smaller" in str(error.value)


def test_the_field_of_view_is_said_and_patches_finer_than_the_scan_are_warned_of(folder, capsys):
    run(folder, patches={"um_per_px": 0.5, "patch_px": 64})
    said = capsys.readouterr().err
    assert "a patch shows 32 µm" in said
    assert "interpolated" not in said
    run(folder, patches={"um_per_px": 0.1, "patch_px": 64})
    assert "its patches 0.1: they are interpolated" in capsys.readouterr().err

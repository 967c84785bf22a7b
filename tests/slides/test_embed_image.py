"""Embedding a new H&E image by a pretrained pair: what it must reproduce, and what it refuses."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_pairs import tissue_image, write_slide
from tiny_pairs import GENES, SAMPLES, SPEC, write_dataset

import embed_image
from pairscape.core import files, tsv
from pairscape.core.errors import InputError
from pairscape.dataset import expression_counts, pair_shards, patch_reader
from pairscape.encoders import image_encoders, specs
from pairscape.images import encoding
from pairscape.pretrain import pair, run_embeddings, stored_pair
from pairscape.pretrain.options import resolve_training
from pairscape.slides import new_image

ROOT = Path(__file__).parents[2]
ENCODERS = ROOT / "config" / "encoders"
MLP = specs.read_encoder(ENCODERS, "gene", "mlp")
PATCHES = {"patch_px": 32, "um_per_px": 0.5, "encoding": "png", "quality": 90}
FACTS = {
    "experiment": "e",
    "dataset": "tiny",
    "image_encoder": "stand_in",
    "gene_encoder": "mlp",
    "seed": 7,
    "options_sha256": "of this run",
    "selected_step": 3,
}


def save_run(results: Path, tuning: str, weights: Path) -> Path:
    """A run of an untrained pair over tests/tiny_pairs, as pretrain writes it; its folder."""
    dataset = results / "datasets" / "tiny"
    spec = SPEC | {"finetuning": {"lora_targets": ["conv_pw", "conv_pwl"]}}
    trunk = image_encoders.build(spec, weights)
    genes = [{"gene_symbol": gene, "gene_id": f"ENSG{gene}"} for gene in GENES]
    training = resolve_training({"embedding_dim": 16, "image_tuning": tuning})
    frozen = tuning == "frozen"
    description = pair.describe(
        spec,
        MLP,
        training,
        genes,
        {"images": trunk.width if frozen else None},
        expression_counts.TrainFacts(100.0, np.ones(len(GENES))),
    )
    description["trunk_sha256"] = {"images": image_encoders.tower_sha256(trunk)}
    torch.manual_seed(7)
    towers = pair.build_towers(description, weights)
    description["trunk_sha256"] |= pair.trunk_checksums(description, towers)
    module = pair.Pair(description, towers).eval()
    for name, parameter in module.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    run = results / "runs" / "e" / "tiny" / "stand_in-mlp" / "seed7"
    stored_pair.save_pair(run / "model.ckpt", module, module.kept_state(), FACTS)

    shards = [dataset / "shards" / f"{sample}.arrow" for sample in SAMPLES]
    reader = patch_reader.PatchReader(shards, spec["input"])
    rows = np.arange(68, 92)
    counts = torch.from_numpy(pair_shards.read_expression(shards[-1]))
    patches = torch.from_numpy(reader.read(rows))
    with torch.inference_mode():
        if frozen:
            patches = trunk(encoding.normalise(patches.numpy(), *norm(spec)))
        images, profiles = module.images(patches).numpy(), module.genes(counts).numpy()
    splits = tsv.read_tsv(dataset / "splits.tsv")
    index = expression_counts.run_index(shards, splits, rows)
    run_embeddings.write_run_embeddings(run, "test", images, profiles, index, FACTS)
    files.write_json(
        run / "options.json",
        {
            "shards": [
                {"sample": sample, "rows": SAMPLES[sample][2], "sha256": files.sha256_file(shard)}
                for sample, shard in zip(SAMPLES, shards, strict=True)
            ]
        },
    )
    return run


def norm(spec):
    return spec["input"]["mean"], spec["input"]["std"]


def tell_patches(shard: Path) -> None:
    """Write into a shard's metadata how its patches were cut; those of tiny_pairs don't say."""
    import pyarrow as pa

    table = pair_shards.read_shard_table(shard)
    told = dict(table.schema.metadata)
    told[pair_shards._METADATA] = json.dumps(
        json.loads(told[pair_shards._METADATA]) | {"patches": PATCHES}
    )
    with pa.OSFile(str(shard.with_suffix(".new")), "wb") as sink:
        schema = table.schema.with_metadata(told)
        with pa.ipc.new_stream(sink, schema) as writer:
            writer.write_table(table.replace_schema_metadata(told))
    shard.with_suffix(".new").replace(shard)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Results with a frozen and a LoRA pair, and the patches of the test sample (24, 32, 32, 3)."""
    folder = tmp_path_factory.mktemp("embed_image")
    weights = folder / "weights.pth"
    torch.manual_seed(5)
    torch.save(image_encoders.build(SPEC, None).model.state_dict(), weights)
    runs = {}
    for tuning in ("frozen", "lora"):
        results = folder / tuning
        dataset = results / "datasets" / "tiny"
        shards, patches, _, _ = write_dataset(dataset)
        for shard in shards:
            tell_patches(shard)
        runs[tuning] = save_run(results, tuning, weights)
    return runs, patches[68:], weights


def embed(run, image, weights, out, *flags):
    """Run the program; embeddings and the rows of their index."""
    embed_image.main(
        [
            *("--model", str(run / "model.ckpt"), "--image", str(image)),
            *("--image-weights", str(weights)),
            *("--embeddings", str(out / "e.npy"), "--index", str(out / "i.tsv"), *flags),
        ]
    )
    return np.load(out / "e.npy"), tsv.read_numbers(out / "i.tsv", ("patch",), "")


def save_png(path, pixels):
    from PIL import Image

    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("tuning", ["frozen", "lora"])
def test_a_test_pairs_patch_gets_its_stored_embedding(made, tmp_path, tuning):
    runs, patches, weights = made
    stored = run_embeddings.read_run_embeddings(runs[tuning], "test")
    gallery = runs[tuning] / "embeddings" / "test_genes.npy"
    for row in (0, 9):
        image = save_png(tmp_path / "patch.png", patches[row])
        found, index = embed(
            runs[tuning],
            image,
            weights,
            tmp_path,
            *("--um-per-px", "0.5", "--min-tissue", "0"),
            *("--gallery", str(gallery), "--nearest", str(tmp_path / "n.tsv")),
        )
        assert found.dtype == np.float32
        assert found.shape == (1, 16)
        assert np.abs(found[0] - stored["images"][row]).max() < 1e-5
        assert [index[0][name] for name in ("x_px", "y_px", "side_px")] == [16, 16, 32]
        nearest = tsv.read_tsv(tmp_path / "n.tsv")
        similarity = stored["images"][row] @ stored["genes"].T
        best = np.argsort(-similarity, kind="stable")[:5]
        assert [int(line["row"]) for line in nearest] == stored["index"]["row"].iloc[best].tolist()
        assert [line["spot"] for line in nearest] == stored["index"]["spot"].iloc[best].tolist()
        assert [float(line["similarity"]) for line in nearest] == pytest.approx(
            similarity[best].tolist(), abs=1e-4
        )
        assert {line["sample"] for line in nearest} == {"S3"}


@pytest.mark.parametrize("name", ["mosaic.png", "mosaic.ome.tif", "mosaic.scn"])
def test_a_grid_and_a_list_of_centres_find_the_same_patches(made, tmp_path, name):
    runs, patches, weights = made
    mosaic = patches[:6].reshape(2, 3, 32, 32, 3).swapaxes(1, 2).reshape(64, 96, 3)
    path, given = tmp_path / name, ()
    if name.endswith("png"):
        save_png(path, mosaic)
        given = ("--um-per-px", "0.5")
    else:
        write_slide(path, mosaic, 0.5)
    stored = run_embeddings.read_run_embeddings(runs["frozen"], "test")["images"][:6]
    found, index = embed(
        runs["frozen"], path, weights, tmp_path, "--min-tissue", "0", "--threads", "2", *given
    )
    assert np.abs(found - stored).max() < 1e-5
    assert [(row["x_px"], row["y_px"]) for row in index] == [
        (x, y) for y in (16, 48) for x in (16, 48, 80)
    ]
    centres = tmp_path / "centres.tsv"
    centres.write_text("x_px\ty_px\n80\t48\n16\t16\n")
    found, index = embed(runs["frozen"], path, weights, tmp_path, "--centres", str(centres), *given)
    assert np.abs(found - stored[[5, 0]]).max() < 1e-5
    assert [row["patch"] for row in index] == [0, 1]


def test_patches_keep_their_field_of_view_whatever_the_images_pixels(made, tmp_path):
    runs, _, weights = made
    path = tmp_path / "he.tif"
    write_slide(path, tissue_image(200, 240), 0.25)
    found, index = embed(
        runs["frozen"], path, weights, tmp_path, "--step-um", "32", "--min-tissue", "0"
    )
    assert {row["side_px"] for row in index} == {64}
    assert sorted({row["x_px"] for row in index}) == [32, 160]
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-5)


def test_glass_is_left_out_and_an_image_of_glass_refused(made, tmp_path):
    runs, patches, weights = made
    half = np.full((32, 64, 3), 255, np.uint8)
    half[:, :32] = patches[0] // 2
    image = save_png(tmp_path / "half.png", half)
    found, index = embed(runs["frozen"], image, weights, tmp_path, "--um-per-px", "0.5")
    assert [row["x_px"] for row in index] == [16]
    assert len(found) == 1
    half[:] = 255
    save_png(image, half)
    with pytest.raises(InputError, match=r"tissue: found none of 2 patches .* --min-tissue"):
        embed(runs["frozen"], image, weights, tmp_path, "--um-per-px", "0.5")


def test_a_file_without_pixel_size_is_refused_unless_it_is_given(made, tmp_path):
    runs, patches, weights = made
    image = save_png(tmp_path / "patch.png", patches[0])
    with pytest.raises(InputError, match=r"um_per_px: found nothing; give .* --um-per-px"):
        embed(runs["frozen"], image, weights, tmp_path)
    with pytest.raises(InputError, match=r"0.7, coarser than the 0.5"):
        embed(runs["frozen"], image, weights, tmp_path, "--um-per-px", "0.7")
    with pytest.raises(InputError, match=r"32 x 32 px, less than one patch of 40.0"):
        embed(runs["frozen"], image, weights, tmp_path, "--um-per-px", "0.4")
    for wrong in ("0", "wide", "nan"):
        with pytest.raises(InputError, match=r"--um-per-px: flag: found '\w+'; give a positive"):
            embed(runs["frozen"], image, weights, tmp_path, "--um-per-px", wrong)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "missing"])
def test_a_damaged_model_is_refused(made, tmp_path, damage):
    runs, patches, weights = made
    image = save_png(tmp_path / "patch.png", patches[0])
    data = bytearray((runs["frozen"] / "model.ckpt").read_bytes())
    run = tmp_path / "run"
    run.mkdir()
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "flipped":
        place = len(data) // 2  # in the middle of the weights
        data[place] ^= 0xFF
    elif damage == "empty":
        data = b""
    if damage != "missing":
        (run / "model.ckpt").write_bytes(data)
    flags = ("--um-per-px", "0.5", "--patch-px", "32", "--patch-um-per-px", "0.5")
    with pytest.raises(InputError, match=r"model\.ckpt: (model|file): found"):
        embed(run, image, weights, tmp_path, *flags)
    assert not (tmp_path / "e.npy").exists()


@pytest.mark.parametrize("tuning", ["frozen", "lora"])
def test_another_trunk_than_the_pairs_is_refused(made, tmp_path, tuning):
    runs, patches, _ = made
    other = tmp_path / "other.pth"
    torch.manual_seed(6)
    torch.save(image_encoders.BUILDERS["timm"](SPEC).state_dict(), other)
    image = save_png(tmp_path / "patch.png", patches[0])
    with pytest.raises(InputError, match=r"weights of the images: found others .* than it was"):
        embed(runs[tuning], image, other, tmp_path, "--um-per-px", "0.5", "--min-tissue", "0")


def test_a_gallery_of_another_run_is_refused(made, tmp_path):
    runs, patches, weights = made
    image = save_png(tmp_path / "patch.png", patches[0])
    copy = tmp_path / "seed8"
    shutil.copytree(runs["frozen"], copy)
    read = run_embeddings.read_run_embeddings(copy, "test")
    meta = FACTS | {"options_sha256": "of another run", "seed": 8}
    images, genes = (np.array(read[name]) for name in ("images", "genes"))
    run_embeddings.write_run_embeddings(copy, "test", images, genes, read["index"], meta)
    more = ("--um-per-px", "0.5", "--nearest", str(tmp_path / "n.tsv"), "--gallery")
    with pytest.raises(InputError, match=r"run: found embeddings by another pair: .*\"seed\": 8"):
        embed(runs["frozen"], image, weights, tmp_path, *more, f"{copy}/embeddings/test_genes.npy")
    with pytest.raises(
        InputError, match=r"test_images.npy: name: .* _?<split>_genes|<split>_genes"
    ):
        embed(runs["frozen"], image, weights, tmp_path, *more, f"{copy}/embeddings/test_images.npy")
    with pytest.raises(InputError, match=r"--nearest: flag: found nothing; give --gallery and"):
        embed(runs["frozen"], image, weights, tmp_path, "--gallery", "g")


def test_the_field_of_view_is_that_of_the_runs_own_shards(made, tmp_path):
    runs, patches, weights = made
    model = runs["frozen"] / "model.ckpt"
    assert new_image.find_field(model, "tiny") == tuple(PATCHES.values())
    # A dataset that uses another's shards has none of its own.
    assert new_image.find_field(model, "a_fold_of_tiny") == tuple(PATCHES.values())
    lonely = tmp_path / "model.ckpt"
    shutil.copyfile(model, lonely)
    image = save_png(tmp_path / "patch.png", patches[0])
    with pytest.raises(InputError, match=r"shards of tiny: found none .* give --patch-px and"):
        embed(tmp_path, image, weights, tmp_path, "--um-per-px", "0.5")
    found, _ = embed(
        tmp_path,
        image,
        weights,
        tmp_path,
        *("--um-per-px", "0.5", "--patch-px", "32", "--patch-um-per-px", "0.5"),
        *("--min-tissue", "0"),
    )
    assert len(found) == 1


def test_centres_beyond_the_image_and_pictures_that_are_none_are_refused(made, tmp_path):
    runs, patches, weights = made
    image = save_png(tmp_path / "patch.png", patches[0])
    centres = tmp_path / "centres.tsv"
    for text, said in (
        ("x_px\ty_px\n16\t16\n17\t16\n", r"line 3: found 17, 16: a patch of 32.0 px beyond"),
        ("x_px\ty_px\n", "line 2: found no centre"),
        ("x_px\ty_px\n16\t\n", "no centre|y_px"),
        ("x_px\n16\n", "column y_px"),
    ):
        centres.write_text(text)
        with pytest.raises(InputError, match=said):
            embed(
                runs["frozen"],
                image,
                weights,
                tmp_path,
                *("--um-per-px", "0.5", "--centres", str(centres)),
            )
    grey = save_png(tmp_path / "grey.png", patches[0][..., 0])
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    for path, said in (
        (grey, "colours: found mode L"),
        (broken, "broken.jpg: image: found cannot identify"),
        (tmp_path / "none.png", "none.png: file: found nothing"),
        (tmp_path / "none.svs", "none.svs: file: found nothing"),
    ):
        with pytest.raises(InputError, match=said):
            embed(runs["frozen"], path, weights, tmp_path, "--um-per-px", "0.5")


def test_a_refusal_is_one_line_without_traceback(made, tmp_path):
    runs, patches, _ = made
    image = save_png(tmp_path / "patch.png", patches[0])
    arguments = ["--model", str(runs["frozen"] / "model.ckpt"), "--image", str(image)]
    outputs = ["--embeddings", str(tmp_path / "e.npy"), "--index", str(tmp_path / "i.tsv")]
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "embed_image.py"), *arguments, *outputs],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "um_per_px: found nothing" in done.stderr

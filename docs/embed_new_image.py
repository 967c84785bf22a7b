# %% [markdown]
# # A new H&E image in the space of a pretrained pair
#
# A pair puts images and gene profiles into one space. Here a pair of `make demo` takes an H&E image,
# embeds its patches, and finds for some of them the spots whose gene profiles lie nearest, with the
# genes that these spots hold more of than their section does.
#
# As a program: `.venv/bin/python docs/embed_new_image.py --run RUN --image IMAGE`; both have
# defaults, what `make demo` makes. Any further flag goes to `scripts/embed_image.py`, which does the
# work: `--um-per-px` for a PNG or JPEG, `--image-weights` for an encoder whose weights were fetched.
#
# As a notebook: [embed_new_image.ipynb](embed_new_image.ipynb), made from this file.
#
# **What the demo's pair is worth**: nothing for a real image. It learned from seven small sections of
# simulated tissue, with an encoder of photographs: it shows the way, on a section of its test split.
# For your own images name a run of your own data.

# %%
import argparse
import functools
import sys
import tempfile
from pathlib import Path

# The checkout lies around this file; in a notebook, which has no __file__, around the working folder.
sys.path.insert(
    0,
    next(
        str(folder / "scripts")
        for folder in Path(globals().get("__file__", "a notebook")).resolve().parents
        if (folder / "scripts" / "embed_image.py").is_file()
    ),
)

import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

import embed_image
from pairscape.core import errors, tsv
from pairscape.dataset import expression_counts, pair_shards
from pairscape.images import any_image
from pairscape.slides import new_image

DEMO = Path(sys.path[0]).parent / "results" / "demo"

parser = argparse.ArgumentParser(description="Embed a new H&E image by a pretrained pair.")
parser.add_argument(
    "--run",
    type=Path,
    default=DEMO / "runs/demo/simulated-breast/tf_efficientnet_lite0_64px-mlp/seed24442",
    help="folder of a run, which holds model.ckpt",
)
parser.add_argument(
    "--image",
    type=Path,
    default=DEMO / "bundles/demo5/demo5_he_image.ome.tif",  # a section of the test split
    help="H&E: PNG, JPEG, TIFF, OME-TIFF, SVS",
)
parser.add_argument("--um-per-px", type=float, help="µm per pixel, where the image doesn't say")
parser.add_argument("--gene", help="gene of the picture; by default the one that varies most")
parser.add_argument("--split", default="test", help="whose gene profiles are looked through")
parser.add_argument("--out", type=Path, help="folder to keep the embeddings and tables in")
parser.add_argument("--show", type=int, default=3, help="how many patches to print")
in_notebook = "ipykernel" in sys.modules  # whose own flags stand in sys.argv
args, further = parser.parse_known_args([] if in_notebook else None)


def print_error(kind, error, trace):
    """A wrong input is told in one line, as by all of Pairscape's programs."""
    if issubclass(kind, errors.InputError):
        print(f"embed_new_image: error: {error}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = print_error

# %% [markdown]
# ## The pair
#
# `model.ckpt` says what it is: its encoders, and the dataset it was trained on. The field of view of a
# patch is found in that dataset's pairs.

# %%
model = args.run / "model.ckpt"
facts = new_image.read_facts(model)
print(
    f"pair: {facts['image_encoder']} with {facts['gene_encoder']}, trained on {facts['dataset']}, "
    f"seed {facts['seed']}"
)
scores = args.run.resolve().parents[4] / "scores" / args.run.resolve().parents[2].name
scores = scores / facts["dataset"] / "retrieval.tsv"
for row in tsv.read_tsv(scores, ["metric"]) if scores.is_file() else ():
    wanted = (args.split, "i2g", "split", "all", "recall@5", facts["gene_encoder"])
    columns = ("split", "direction", "gallery", "group_by", "metric", "gene_encoder")
    if tuple(row[column] for column in columns) == wanted and row["seed"] == str(facts["seed"]):
        print(
            f"in its {args.split} split the right spot is among the first 5 of {row['gallery_size']} "
            f"for {float(row['value']):.1%} of the patches; by chance {float(row['chance']):.1%}"
        )

# %% [markdown]
# ## The image
#
# The patches lie side by side over the tissue. `embeddings.npy` has a row of unit length for each of
# them, `patches.tsv` its place, `nearest.tsv` the spots with the most similar gene profiles. A gallery
# must be of the same run: each pair has a space of its own.

# %%
out = args.out or Path(tempfile.mkdtemp(prefix="embed_new_image_"))
out.mkdir(parents=True, exist_ok=True)
embed_image.main(
    [
        *("--model", str(model), "--image", str(args.image)),
        *("--gallery", str(args.run / "embeddings" / f"{args.split}_genes.npy")),
        *("--embeddings", str(out / "embeddings.npy"), "--index", str(out / "patches.tsv")),
        *("--nearest", str(out / "nearest.tsv"), *further),
        *(("--um-per-px", str(args.um_per_px)) if args.um_per_px else ()),
    ]
)
embeddings = np.load(out / "embeddings.npy")
patches = tsv.read_numbers(out / "patches.tsv", new_image.INDEX_COLUMNS, "embed again")
nearest = tsv.read_tsv(out / "nearest.tsv", new_image.NEAREST_COLUMNS)
print(f"image: {args.image.name}, {len(embeddings)} patches, {embeddings.shape[1]} numbers each")

# %% [markdown]
# ## The nearest gene profiles
#
# A similarity is the cosine of two embeddings. The counts of a spot stand in the pairs of its sample;
# behind each gene stands how many transcripts of it the spot holds, and in brackets how many a spot
# with as many transcripts in all would hold on average.


# %%
def section_file(sample):
    """The pairs of a section, if they lie beside the run."""
    datasets = args.run.resolve().parents[4] / "datasets"
    names = (facts["dataset"], "*")
    return next((p for name in names for p in datasets.glob(f"{name}/shards/{sample}.arrow")), None)


@functools.cache
def read_section(sample):
    """Counts of a section's spots, names of spots and genes, genes' shares; None without pairs."""
    shard = section_file(sample)
    if shard is None:
        return None
    counts = pair_shards.read_expression(shard)
    spots, genes = (
        pair_shards.read_index(shard)["spot"].to_pylist(),
        pair_shards.shard_metadata(shard)["genes"],
    )
    return counts, spots, genes, counts.sum(axis=0) / counts.sum()


def leading_genes(sample, spot, count=4):
    """The genes that a spot holds most of, compared with its section: counts, and those expected."""
    section = read_section(sample)
    if section is None:
        return "its pairs aren't beside the run"
    counts, spots, genes, share = section
    held = counts[spots.index(spot)]
    leading = zip(*expression_counts.leading_genes(held, share, count), strict=True)
    return ", ".join(f"{genes[i]} {held[i]} ({expected:.1f})" for i, expected in leading)


for patch in patches[: args.show]:
    print(f"\npatch {patch['patch']:.0f} at ({patch['x_px']:.0f}, {patch['y_px']:.0f}) px")
    for row in nearest:
        if int(row["patch"]) == patch["patch"]:
            print(
                f"  {row['place']}. similarity {float(row['similarity']):.3f}: spot {row['spot']} of "
                f"{row['sample']}; most {leading_genes(row['sample'], row['spot'])}"
            )

# %% [markdown]
# ## A picture of it
#
# On the left a gene as the image tells it: the mean count in the five spots whose profiles lie nearest
# to each patch. On the right, for a section whose pairs lie beside the run, what was measured there,
# and how well the two agree: Spearman's correlation over the patches, each with the spots whose centres
# it holds.


# %%
def counts_of(sample, spot):
    """The counts of a spot, (genes,), or None without its pairs."""
    section = read_section(sample)
    return None if section is None else section[0][section[1].index(spot)]


told = [[] for _ in patches]
for row in nearest:
    if (counts := counts_of(row["sample"], row["spot"])) is not None:
        told[int(row["patch"])].append(counts)
if all(told):
    told = np.array([np.mean(counts, axis=0) for counts in told])
    genes = read_section(nearest[0]["sample"])[2]
    gene = genes.index(args.gene) if args.gene else int(told.std(axis=0).argmax())
    centres = np.array([[patch["x_px"], patch["y_px"]] for patch in patches])
    side_px = patches[0]["side_px"]
    shown = [("told by the image", centres, told[:, gene], side_px)]
    measured = read_section(args.image.name.removesuffix("_he_image.ome.tif"))
    if measured is not None and measured[2] == genes:
        name = args.image.name.removesuffix("_he_image.ome.tif")
        index = pair_shards.read_index(section_file(name))
        places = np.array(index["cell_coords"].to_pylist())
        shown.append(("measured", places, measured[0][:, gene], side_px / 2))
        inside = np.abs(centres[:, None] - places).max(axis=2) <= side_px / 2
        held = inside.any(axis=1)
        mean = (inside @ measured[0][:, gene])[held] / inside[held].sum(axis=1)
        agreement = stats.spearmanr(told[held, gene], mean).statistic
        print(f"{genes[gene]}: Spearman's correlation {agreement:.2f} over {held.sum()} patches")
    with any_image.open_image(args.image, args.um_per_px) as image:
        picture, scale = image.thumbnail(1200)
    figure, axes = plt.subplots(
        1, len(shown), figsize=(5.5 * len(shown), 5), squeeze=False, layout="constrained"
    )
    for axis, (title, xy, values, px) in zip(axes[0], shown, strict=True):
        axis.imshow(picture)
        points = axis.scatter(*(xy / scale).T, c=values, marker="s", alpha=0.75)
        figure.canvas.draw()
        per_px = axis.transData.transform([(1, 0), (0, 0)])[:, 0] @ [1, -1] * 72 / figure.dpi
        points.set_sizes([(px / scale * per_px) ** 2])
        axis.set(title=f"{genes[gene]}, {title}", xticks=[], yticks=[])
        figure.colorbar(points, ax=axis, label="transcripts a spot", shrink=0.8)
    figure.savefig(out / "found.png", dpi=120)
print(f"\nall {len(patches)} patches: {out}")

"""Small shards of a made-up tissue, whose patches and counts share one cause, for several tests."""

import numpy as np

from pairscape.dataset import cutting, gene_lists, pair_shards, splits
from pairscape.images import encoding

GENES = [f"GENE{i:02d}" for i in range(12)]
SAMPLES = {"S1": ("D1", "train", 48), "S2": ("D2", "val", 20), "S3": ("D3", "test", 24)}
# A small image encoder with weights in a file, which a test makes.
SPEC = {
    "kind": "image",
    "title": "A small stand-in",
    "built": True,
    "builder": "timm",
    "arguments": {"architecture": "test_efficientnet", "num_classes": 0},
    "output": "pooled",
    "width": 256,
    "parameters": 99196,
    "input": {
        "resize_px": 32,
        "crop_px": 32,
        "interpolation": "bicubic",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    },
    "weights": {
        "source": "path",
        "location": "a test",
        "file": "weights.pth",
        "extra_files": [],
        "sha256": None,
        "layout": "same",
        "gated": False,
        "licence": "none",
    },
    "fingerprint": None,
    "finetuning": {"lora_targets": []},
}


def write_splits(path, samples, **facts):
    """Write splits.tsv of breast cancers: sample, donor and split of each; its rows as text."""
    rest = {"donor_known": "True", "organ": "breast", "disease_state": "cancer"}
    rest |= {"spots": None, "shared_donors": "", **facts}
    rows = [{"sample": s, "donor": d, "split": split, **rest} for s, d, split in samples]
    splits.SPLITS_TABLE.write(path, rows)
    return splits.as_text(splits.SPLITS_TABLE.read(path))


def write_dataset(folder, patch_px=32, seed=0):
    """Write shards, splits.tsv and genes.tsv; return (shard paths, patches, counts, causes)."""
    rng = np.random.default_rng(seed)
    names = list(SAMPLES)
    labels = {"name": names, "source": ["simulated"], "tissue": ["breast"]}
    features = cutting.pair_features(len(GENES), labels)
    programmes = rng.gamma(2.0, 3.0, (4, len(GENES)))
    colours = rng.integers(60, 200, (4, 3))
    paths, all_patches, all_counts, all_causes = [], [], [], []
    for sample, (donor, _, rows) in SAMPLES.items():
        causes = rng.dirichlet(np.full(4, 0.5), rows)
        counts = rng.poisson(causes @ programmes).astype(np.int32)
        noise = rng.integers(-20, 20, (rows, patch_px, patch_px, 3))
        patches = ((causes @ colours)[:, None, None, :] + noise).clip(0, 255).astype(np.uint8)
        path = folder / "shards" / f"{sample}.arrow"
        constant = cutting.sample_columns(
            {"sample": sample, "donor": donor, "source": "simulated", "organ": "breast"}
        )
        pair_shards.write_shard(
            path,
            (
                {
                    **constant,
                    "image": encoding.encode_patch(patches[i], "png"),
                    "gexp": counts[i],
                    "cell_coords": np.float32([i, i]),
                    "spot": f"{i // 8:03d}x{i % 8:03d}",
                    "array_row": i // 8,
                    "array_col": i % 8,
                    "x_um": 55.0 * (i % 8),
                    "y_um": 55.0 * (i // 8),
                    "um_per_px": 0.5,
                    "tissue_fraction": 1.0,
                }
                for i in range(rows)
            ),
            features,
            dict.fromkeys(pair_shards.METADATA_KEYS)
            | {
                "sample": sample,
                "genes": GENES,
                "patches": {"patch_px": patch_px, "um_per_px": 0.5},
            }
            | {"spots": {"preset": {"shape": "square", "size_um": 8}}},
        )
        paths.append(path)
        all_patches.append(patches)
        all_counts.append(counts)
        all_causes.append(causes)
    write_splits(folder / "splits.tsv", [(s, d, split) for s, (d, split, _) in SAMPLES.items()])
    gene_lists.write_genes(folder / "genes.tsv", [(gene, f"ENSG{gene}") for gene in GENES])
    return (
        paths,
        np.concatenate(all_patches),
        np.concatenate(all_counts),
        np.concatenate(all_causes),
    )

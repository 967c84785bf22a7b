"""scFoundation: the golden references, its file and vocabulary, tokens, pooling, bounded memory."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import golden
import numpy as np
import pytest
import torch

from pairscape.core.errors import InputError
from pairscape.encoders import gene_encoders, specs
from pairscape.encoders.architectures import scfoundation

ROOT = Path(__file__).resolve().parents[2]
VOCABULARY = "OS_scRNA_gene_index.19264.tsv"
SMALL = {"dim": 24, "heads": 3, "layers": 2, "feed_forward": 48, "bins": 10, "genes": 40}


def small_spec(name: str = "scfoundation", **arguments) -> dict:
    """An encoder's file with its network cut small, and the count of parameters that goes with it."""
    spec = read_spec(name, **SMALL | arguments)
    spec["width"] = SMALL["dim"] * (4 if spec["arguments"]["pool"] == "all" else 1)
    with torch.device("meta"):
        model = scfoundation.Encoder(spec["arguments"])
    spec["parameters"] = sum(p.numel() for p in model.parameters())
    return spec


def read_spec(name: str, **arguments) -> dict:
    spec = copy.deepcopy(specs.read_encoder(ROOT / "config/encoders", "gene", name))
    spec["arguments"].update(arguments)
    return spec


def gene_rows(count: int, first: int = 0) -> list[dict]:
    return [{"gene_symbol": f"G{i}", "gene_id": f"E{i}"} for i in range(first, first + count)]


def write_vocabulary(folder: Path, size: int) -> None:
    lines = ["gene_name\tindex", *(f"G{i}\t{i}" for i in range(size))]
    (folder / VOCABULARY).write_text("\n".join(lines) + "\n")


def configuration(arguments: dict) -> dict:
    """The configuration as the authors' file holds it, in its two parts."""
    encoder = {"hidden_dim": arguments["dim"], "depth": arguments["layers"]}
    model = {
        "encoder": encoder | {"heads": arguments["heads"]},
        "bin_num": arguments["bins"],
        "bin_alpha": 1.0,
        "mask_token_id": 102,
    }
    data = {"seq_len": arguments["genes"] + 2, "pad_token_id": 103, "n_class": 104}
    return {
        "model": "mae_autobin",
        "model_config": {"mae_autobin": model},
        "dataset_config": {"rnaseq": data},
    }


def small_file(folder: Path, spec: dict, change=None) -> tuple[Path, dict]:
    """A file in the official layout: its path, and the cell model's entries."""
    torch.manual_seed(1)
    parts = {}
    for key in ("cell", "gene", "rde"):
        entries = scfoundation.Encoder(spec["arguments"]).state_dict()
        entries = {f"model.{name}": torch.randn_like(value) for name, value in entries.items()}
        entries |= {
            "model.decoder.performer.calls_since_last_redraw": torch.tensor(7),
            "model.decoder_embed.weight": torch.randn(3, 24),
            "model.norm.bias": torch.randn(3),
            "model.to_final.weight": torch.randn(1, 3),
        }
        parts[key] = {"state_dict": entries, "config": configuration(spec["arguments"])}
    cell = parts["cell"]
    parts = parts if change is None else change(parts)
    write_vocabulary(folder, spec["arguments"]["genes"])
    torch.save(parts, folder / "models.ckpt")
    return folder / "models.ckpt", cell["state_dict"]


def official_input(arrays: dict, name: str) -> np.ndarray:
    found = np.zeros((3, 19266), np.float32)
    found[arrays[f"{name}_row"], arrays[f"{name}_col"]] = arrays[f"{name}_val"]
    return found


def tokens_in_columns(tower, counts: np.ndarray) -> np.ndarray:
    """The tower's input as the official row: genes by vocabulary, then T, then S."""
    values, places, real = tower.prepare(torch.from_numpy(counts))
    found = np.zeros((len(counts), tower.spec["arguments"]["genes"] + 2), np.float32)
    for row in range(len(counts)):
        found[row, places[row][real[row]]] = values[row][real[row]]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("weight_set", golden.LARGE_SETS)
def test_golden_embeddings_match_through_the_file(shared, tmp_path, weight_set):
    torch.set_num_threads(1)
    facts, arrays = golden.read(shared, "scfoundation")
    named = [(name, shape) for name, shape, *_ in facts["state_dict"]]
    assert golden.names_shapes_sha256(named) == facts["names_shapes_sha256"]
    entries = golden.state(facts["state_dict"], weight_set)
    assert golden.weights_sha256(entries) == facts[f"weights_sha256_{weight_set}"]
    entries |= {e[0]: torch.zeros(e[1]) for e in facts["state_dict"] if e[3] == "keep"}
    arguments = read_spec("scfoundation")["arguments"]
    part = {
        "state_dict": {f"model.{name}": value for name, value in entries.items()},
        "config": configuration(arguments),
    }
    path = tmp_path / "models.ckpt"
    torch.save({"cell": part, "gene": part, "rde": {}}, path)
    write_vocabulary(tmp_path, 19264)
    official = gene_encoders.build(read_spec("scfoundation_all"), path, gene_rows(19264))
    published = gene_encoders.build(read_spec("scfoundation_published"), path, gene_rows(19264))
    path.unlink()
    counts = torch.from_numpy(arrays["counts"])

    def off(found, name):
        return golden.largest_difference(found, arrays[f"{name}_{weight_set}"])

    with torch.inference_mode():
        embeddings = official.model.token_emb
        grid = torch.tensor([0.01, 0.5, 1, 2, 4, 8, 103, 102])
        assert off(embeddings(grid), "token_emb_grid") <= golden.ATOL
        together = official(counts)  # the reference ran one cell at a time
        assert off(together, "official_cell_all") <= golden.ATOL
        parts = published.prepare(counts)
        together = published(counts)
        assert off(together, "hescape_embedding") <= golden.ATOL
        before = together * np.float32(np.sqrt(1 + 1e-6))
        assert off(before, "hescape_max_before_norm") <= golden.ATOL
        # The same input, scaled with the batch, without the padding.
        cells = [[part[i : i + 1, real] for part in parts] for i, real in enumerate(parts[2])]
        alone = torch.cat([published.norm(published.model(*cell).amax(1)) for cell in cells])
        assert off(alone, "hescape_embedding_each_cell_alone") <= golden.ATOL
        official.spec = read_spec("scfoundation", pool_over="tokens")
        cell = official.prepare(counts[:1])
        # The reference's first four tokens are genes; ours are T and S.
        assert off(embeddings(cell[0])[0, 2:6], "token_emb_cell0_first4") <= golden.ATOL
        assert off(official.model(*cell)[0, 2:6], "encoder_out_cell0_first4") <= golden.ATOL
        wanted = arrays[f"official_cell_max_{weight_set}"][:1]
        assert golden.largest_difference(official(counts[:1]), wanted) <= golden.ATOL


def test_golden_inputs_match(shared):
    _, arrays = golden.read(shared, "scfoundation")
    counts = arrays["counts"].astype(np.int32)
    everything = list(range(19264))
    for name, places, rows, wanted in (
        ("scfoundation", everything, counts, "official_input_t4"),
        ("scfoundation_published", everything, counts, "hescape_input_full"),
        (
            "scfoundation_published",
            arrays["panel_gene"],
            arrays["panel_counts"],
            "hescape_input_panel",
        ),
    ):
        spec = small_spec(name, genes=19264)
        tower = scfoundation.Tower(spec, places, float("nan"))
        found = tokens_in_columns(tower, np.asarray(rows, np.int32))
        assert golden.largest_difference(found, official_input(arrays, wanted)) < 2e-6, wanted


def test_parameters_are_as_declared():
    with torch.device("meta"):
        model = scfoundation.Encoder(read_spec("scfoundation")["arguments"])
    assert sum(p.numel() for p in model.parameters()) == 99_941_692


def test_every_variant_reads_its_own_model_of_the_file(tmp_path):
    path, entries = small_file(tmp_path, small_spec())
    towers = {
        name: gene_encoders.build(small_spec(name), path, gene_rows(30))
        for name in ("scfoundation", "scfoundation_all", "scfoundation_published")
    }
    wanted = entries["model.pos_emb.weight"]
    assert torch.equal(towers["scfoundation"].model.pos_emb.weight, wanted)
    assert torch.equal(towers["scfoundation_all"].model.pos_emb.weight, wanted)
    assert not torch.equal(towers["scfoundation_published"].model.pos_emb.weight, wanted)
    assert [tower.width for tower in towers.values()] == [24, 96, 24]
    for name, tower in towers.items():
        assert not tower.training, name
        assert not any(p.requires_grad for p in tower.parameters()), name
        gene_encoders.fingerprint(tower, small_spec(name), gene_rows(30))


def without(part, name):
    return {key: value for key, value in part.items() if key != name}


def in_cell(change):
    def changed(parts):
        state = change(dict(parts["cell"]["state_dict"]))
        return parts | {"cell": parts["cell"] | {"state_dict": state}}

    return changed


def other_alpha(parts):
    config = copy.deepcopy(parts["cell"]["config"])
    config["model_config"]["mae_autobin"]["bin_alpha"] = 0.5
    return parts | {"cell": parts["cell"] | {"config": config}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (in_cell(lambda s: without(s, "model.encoder.norm.bias")), "entry encoder.norm.bias"),
        (
            in_cell(
                lambda s: (
                    without(s, "model.pos_emb.weight")
                    | {"model.pos.weight": s["model.pos_emb.weight"]}
                )
            ),
            "first unknown: pos.weight",
        ),
        (
            in_cell(lambda s: s | {"model.pos_emb.weight": torch.zeros(5, 24)}),
            r"found \(5, 24\); the model needs the shape \(43, 24\)",
        ),
        (in_cell(lambda s: s | {"model.more.weight": torch.zeros(2)}), "entry more.weight"),
        (
            in_cell(lambda s: s | {"model.encoder.norm.bias": torch.full((24,), torch.nan)}),
            "numbers that aren't finite",
        ),
        (lambda parts: without(parts, "cell"), "entry cell: found nothing"),
        (lambda parts: parts["cell"]["state_dict"], "entry cell: found nothing"),
        (lambda parts: {"model": parts}, "entry cell: found nothing"),
        (lambda parts: parts | {"cell": {}}, "entry cell: found no state_dict"),
        (lambda parts: parts | {"cell": without(parts["cell"], "config")}, "cell, config"),
        (other_alpha, "bin_alpha: found 0.5; 1 is declared"),
        (lambda parts: [1, 2], "found list"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path, change, words):
    spec = small_spec()
    path, _ = small_file(tmp_path, spec, change)
    with pytest.raises(InputError, match=words) as raised:
        gene_encoders.build(spec, path, gene_rows(30))
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "needs OS_scRNA_gene_index.19264.tsv beside its weights"),
        ("gene_name\tindex\nG0\t0\n", "1 rows"),
        ("gene\tindex\nG0\t0\n", "column gene_name"),
        ("gene_name\tindex\n" + "".join(f"G{i}\t{i or 1}\n" for i in range(40)), "39 numbers"),
        ("gene_name\tindex\n" + "".join(f"G{i or 1}\t{i}\n" for i in range(40)), "39 names"),
    ],
)
def test_a_missing_or_wrong_vocabulary_is_one_line(tmp_path, text, words):
    spec = small_spec()
    path, _ = small_file(tmp_path, spec)
    if text is None:
        (tmp_path / VOCABULARY).unlink()
    else:
        (tmp_path / VOCABULARY).write_text(text)
    with pytest.raises(InputError, match=words):
        gene_encoders.build(spec, path, gene_rows(30))


def test_genes_are_found_by_symbol_and_unknown_ones_left_out(tmp_path, caplog):
    spec = small_spec()
    path, _ = small_file(tmp_path, spec)
    tower = gene_encoders.build(spec, path, gene_rows(20))
    shuffled = gene_rows(20)[::-1] + gene_rows(3, first=100)
    with caplog.at_level("INFO", "pairscape"):
        other = gene_encoders.build(spec, path, shuffled)
    assert "3 of 23 genes aren't in the vocabulary and are left out: G100, G101" in caplog.text
    counts = torch.from_numpy(golden.generator(5).poisson(1.0, (6, 20)))
    extra = torch.full((6, 3), 50)  # they count neither as tokens nor into the depth
    torch.testing.assert_close(
        other(torch.cat([counts.flip(1), extra], 1)), tower(counts), rtol=0, atol=1e-5
    )
    with pytest.raises(InputError, match="only 10 of the dataset's 25 genes"):
        gene_encoders.build(spec, path, gene_rows(25, first=30))


def test_tokens_are_the_depths_and_the_expressed_genes():
    tower = gene_encoders.build(small_spec(), None, gene_rows(6))
    counts = torch.tensor([[0, 3, 0, 0, 1, 6], [0, 0, 0, 0, 0, 0], [0, 0, 9, 0, 0, 0]])
    values, places, real = tower.prepare(counts)
    assert real.tolist() == [[True] * 5, [True] * 2 + [False] * 3, [True] * 3 + [False] * 2]
    assert places[0].tolist() == [40, 41, 1, 4, 5]
    assert places[1].tolist() == [40, 41, 42, 42, 42]
    np.testing.assert_allclose(values[0, :2], [4, 1])  # T as the authors default to; log10 of 10
    np.testing.assert_allclose(values[0, 2:], np.log1p([3000, 1000, 6000]), rtol=1e-6)
    assert values[1].tolist() == [4, 0, 103, 103, 103]
    assert tower.lengths(counts).tolist() == [5, 2, 3]


def test_pooling_takes_what_it_says():
    counts = torch.tensor([[0, 3, 0, 0, 1, 6], [0, 0, 0, 0, 0, 0], [0, 0, 9, 0, 0, 0]])
    tower = gene_encoders.build(small_spec("scfoundation_all", genes=200), None, gene_rows(6))
    tokens = tower.model(*tower.prepare(counts))
    found = tower(counts).unflatten(1, (4, 24))
    close = {"rtol": 0, "atol": 1e-6}
    torch.testing.assert_close(found[:, 0], tokens[:, 1], **close)
    torch.testing.assert_close(found[:, 1], tokens[:, 0], **close)
    # Without an expressed gene the depths are what is pooled, never padding.
    genes = [tokens[0, 2:], tokens[1, :2], tokens[2, 2:3]]
    torch.testing.assert_close(found[:, 2], torch.stack([g.amax(0) for g in genes]), **close)
    torch.testing.assert_close(found[:, 3], torch.stack([g.mean(0) for g in genes]), **close)
    for pool_over, kept in (("tokens", [5, 2, 3]), ("padded", [5, 5, 5])):
        tower.spec = small_spec(pool_over=pool_over, genes=200)
        values, places, real = tower.prepare(counts)
        tokens = tower.model(values, places, real)
        wanted = torch.stack([t[:n].amax(0) for t, n in zip(tokens, kept, strict=True)])
        torch.testing.assert_close(tower(counts), wanted, **close)
    assert places[1].tolist() == [200, 201, 103, 103, 103]  # as published: another gene's position


@pytest.mark.parametrize(
    ("part", "key"),
    [
        ("arguments", "pool"),
        ("arguments", "pool_over"),
        ("input", "transform"),
        ("weights", "layout"),
    ],
)
def test_an_unknown_word_in_its_file_is_refused(part, key):
    spec = small_spec()
    spec[part][key] = "mean"
    with pytest.raises(InputError, match=f"{part}.{key}: found 'mean'; allowed"):
        gene_encoders.build(spec, None, gene_rows(6))


MEMORY = """
import resource, sys
import numpy as np
from test_scfoundation import gene_rows, small_spec
from pairscape.encoders import gene_encoders

spec = small_spec(dim=96, heads=12, feed_forward=384, layers=1, bins=100, genes=19264)
tower = gene_encoders.build(spec | {"width": 96}, None, gene_rows(5001))
random = np.random.default_rng(0)
counts = (random.random((40, 5001)) < 0.02).astype(np.int32)
list(gene_encoders.embed(tower, counts, range(8, 12)))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
counts[7] = 1 + random.poisson(1.0, 5001)
counts[8, 3:] = 1 + random.poisson(1.0, 4998)
(found,) = gene_encoders.embed(tower, counts, range(40))
assert np.isfinite(found).all() and len(np.unique(found.round(4), axis=0)) == 40
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_memory_on_5001_genes_is_bounded():
    # Attention held whole takes 1.2 GB for one full spot (12 heads x 5,003 x 5,003); all 40 spots
    # padded to the longest take 300 MB for each array of the feed-forward.
    folders = ("scripts", "tests", "tests/built", "tests/encoders")
    environment = {"PYTHONPATH": os.pathsep.join(str(ROOT / f) for f in folders), "PATH": ""}
    ran = subprocess.run(
        [sys.executable, "-c", MEMORY], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) < 200_000, f"{int(ran.stdout):,} kB more than for small spots"

"""DRVI fitted on a made-up tissue: what it learns, from whom, and its use without drvi."""

import copy
import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_pairs
import torch

import fit_gene_encoder
from pairscape.core import files
from pairscape.core.errors import InputError
from pairscape.dataset import pair_shards
from pairscape.encoders import drvi_fitting, gene_encoders, specs
from pairscape.encoders.architectures import drvi

# One fit for the whole file: the import of drvi alone takes 20 s.
ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config" / "encoders"
SAMPLES = {"S1": ("D1", "train", 200), "S2": ("D2", "train", 160), "S3": ("D3", "test", 90)}
GENES = [{"gene_symbol": gene, "gene_id": f"ENSG{gene}"} for gene in tiny_pairs.GENES]


def read_spec(name="drvi", **arguments):
    spec = copy.deepcopy(specs.read_encoder(CONFIG, "gene", name))
    spec["arguments"] |= arguments
    return spec


def small_spec(**arguments):
    # 12 genes are all in the 20 strongest, and few counts spread widely.
    quality = {**read_spec()["arguments"]["quality"], "max_mad": dict.fromkeys(
        ("transcripts", "genes", "top_20", "mitochondrial"), 8
    )}  # fmt: skip
    spec = read_spec(
        n_latent=8,
        batch_size=32,
        learning_rate=0.005,
        epochs=30,
        kl_warmup_epochs=30,
        quality=quality,
        **arguments,
    )
    spec |= {"title": "A small DRVI", "width": 8, "parameters": 128 + 16512 + 128 * 8 + 8}
    return spec


def write(folder, samples):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_pairs, "SAMPLES", samples)
        return tiny_pairs.write_dataset(folder, patch_px=8)


def run(folder, out, spec=None, samples=SAMPLES, **options):
    resolved = {
        "dataset": "tiny",
        "encoder": spec or small_spec(),
        "encoder_name": "drvi",
        "samples": list(samples),
        "seed": 7,
    }
    fit_gene_encoder.main(
        [
            *("--shards", *(str(folder / "shards" / f"{name}.arrow") for name in samples)),
            *("--splits", str(folder / "splits.tsv"), "--genes", str(folder / "genes.tsv")),
            *("--encoder", str(out / "encoder.pt"), "--fit", str(out / "fit.json")),
            *("--history", str(out / "history.csv"), "--curve", str(out / "curve.png")),
            *("--options", json.dumps(resolved | options)),
        ]
    )
    return out / "encoder.pt"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drvi")
    _, _, counts, causes = write(folder, SAMPLES)
    return folder, counts, causes


@pytest.fixture(scope="module")
def fitted(dataset):
    """The encoder as a run of the program leaves it, and what drvi itself says of the spots."""
    folder, seen = dataset[0], {}
    check = drvi_fitting._check_encoder

    def spy(model, counts, *rest):
        seen.update(counts=counts.toarray(), latent=model.get_latent_representation())
        return check(model, counts, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drvi_fitting, "_check_encoder", spy)
        return run(folder, folder / "fitted"), seen


@pytest.fixture
def copied(fitted, tmp_path):
    return Path(shutil.copytree(fitted[0].parent, tmp_path / "fitted")) / "encoder.pt"


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_plain_encoder_gives_the_latent_of_drvi(fitted):
    path, seen = fitted
    tower = gene_encoders.build(small_spec(), path, GENES)
    assert not any(module.training for module in tower.modules())
    found = tower(torch.from_numpy(seen["counts"]).int()).numpy()
    assert seen["latent"].std() > 0.1
    assert np.abs(found - seen["latent"]).max() < 1e-5


def test_the_latent_of_unseen_spots_tells_the_planted_programmes(dataset, fitted):
    """As well as expression itself does, and better than a network that wasn't fitted."""
    _, counts, causes = dataset
    train = np.arange(len(counts)) < 360

    def told(features):
        features = np.c_[features, np.ones(len(features))]
        weights = np.linalg.lstsq(features[train], causes[train], rcond=None)[0]
        guess = features[~train] @ weights
        return np.mean([np.corrcoef(guess[:, i], causes[~train, i])[0, 1] for i in range(4)])

    latent, random = (
        gene_encoders.build(small_spec(), path, GENES)(torch.from_numpy(counts)).numpy()
        for path in (fitted[0], None)
    )
    assert told(latent) > told(np.log1p(counts)) - 0.05
    assert told(latent) > told(random) + 0.05


def test_what_is_held_out_changes_nothing_of_the_fit(dataset, fitted, tmp_path):
    """It also shows that the same seed gives the same bytes."""
    other = SAMPLES | {"S3": ("D3", "test", 40)}
    write(tmp_path, other)
    assert not np.array_equal(
        pair_shards.read_expression(tmp_path / "shards" / "S3.arrow"), dataset[1][360:400]
    )
    path = run(tmp_path, tmp_path / "fitted", samples=other)
    assert path.read_bytes() == fitted[0].read_bytes()


def test_the_record_says_what_was_fitted_on(dataset, fitted):
    fit = files.read_json(fitted[0].with_name("fit.json"))
    assert [(s["sample"], s["donor"], s["rows"]) for s in fit["samples"]] == [
        ("S1", "D1", 200),
        ("S2", "D2", 160),
    ]
    assert fit["samples"][0]["sha256"] == files.sha256_file(dataset[0] / "shards" / "S1.arrow")
    assert fit["spots"] == len(fitted[1]["counts"]) == 360 - sum(fit["left_out"].values())
    assert fit["epochs"] == 30
    assert fit["kl_warmup_epochs"] == 30
    assert 1 <= fit["dimensions_used"] <= 8
    assert fit["versions"]["drvi-py"]
    history = (fitted[0].parent / "history.csv").read_text().splitlines()
    assert history[0] == ",".join(drvi_fitting.HISTORY_COLUMNS)
    assert len(history) == 31
    first, last = (float(line.split(",")[2]) for line in (history[1], history[-1]))
    assert last < first  # reconstruction
    assert (fitted[0].parent / "curve.png").stat().st_size > 1000


def test_a_fitted_encoder_needs_neither_drvi_nor_anndata(fitted):
    code = (
        "import json, sys\n"
        "for name in ('drvi', 'scvi', 'anndata', 'lightning'): sys.modules[name] = None\n"
        "from pairscape.encoders import gene_encoders\n"
        "tower = gene_encoders.build(*json.loads(sys.argv[1]))\n"
        "print(len(gene_encoders.fingerprint(tower, *json.loads(sys.argv[1])[::2])))"
    )
    given = json.dumps([small_spec(), str(fitted[0]), GENES])
    done = subprocess.run(
        [sys.executable, "-c", code, given],
        cwd=ROOT / "scripts",
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "16", done.stderr


def splits_of(**moved):
    found = {sample: split for sample, (_, split, _) in SAMPLES.items()} | moved
    return [{"sample": sample, "split": split} for sample, split in found.items()]


def test_an_encoder_fitted_on_a_test_sample_stops_the_run(dataset, fitted):
    shards = [
        {"sample": s, "sha256": files.sha256_file(dataset[0] / "shards" / f"{s}.arrow")}
        for s in SAMPLES
    ]
    assert drvi.check_fitted_on(fitted[0], splits_of(), "splits.tsv", shards)["spots"] > 300
    with pytest.raises(InputError) as error:
        drvi.check_fitted_on(fitted[0], splits_of(S2="test"), "splits.tsv")
    assert "fit.json: samples, S2: found a sample that is in test of splits.tsv" in one_line(error)
    both = [*splits_of(), {"sample": "S2", "split": "test"}]  # acknowledged by split_donors
    drvi.check_fitted_on(fitted[0], both, "splits.tsv")
    with pytest.raises(InputError, match="S1: found a sample that is in no split"):
        drvi.check_fitted_on(fitted[0], splits_of()[1:], "splits.tsv")
    shards[0]["sha256"] = "0" * 64
    with pytest.raises(InputError, match="S1: found an encoder fitted on another export"):
        drvi.check_fitted_on(fitted[0], splits_of(), "splits.tsv", shards)


def test_the_leak_of_the_published_fit_is_let_pass_only_by_name_and_is_said(copied, caplog):
    record = copied.with_name("fit.json")
    fit = files.read_json(record)
    fit["leaked"] = ["S2"]
    files.write_json(record, fit)
    logger = logging.getLogger("pairscape")
    logger.addHandler(caplog.handler)
    drvi.check_fitted_on(copied, splits_of(S2="test"), "splits.tsv")
    logger.removeHandler(caplog.handler)
    assert "was fitted on held-out samples: S2" in caplog.text
    with pytest.raises(InputError, match="S1"):
        drvi.check_fitted_on(copied, splits_of(S1="test"), "splits.tsv")


def test_only_the_published_variant_takes_held_out_samples():
    options = {"samples": ["S1", "S2", "S3"], "also_fit": ["S3", "S1", "S9"]}
    splits = splits_of()
    found = [
        fit_gene_encoder.leaked_samples(options, read_spec(name)["arguments"], splits)
        for name in ("drvi", "drvi_small", "drvi_published")
    ]
    assert found == [[], [], ["S3"]]
    with pytest.raises(InputError, match="also_fit"):
        fit_gene_encoder.leaked_samples(
            {"samples": ["S1"]}, read_spec("drvi_published")["arguments"], splits
        )


def _damage(path):
    path.write_bytes(path.read_bytes()[:-50])


def _unrecorded(path):
    path.with_name("fit.json").unlink()


def _wrong_shape(path):
    entries = torch.load(path, weights_only=True)
    entries["mean.weight"] = torch.zeros(4, 128)
    _store(path, entries)


def _missing_entry(path):
    entries = torch.load(path, weights_only=True)
    del entries["linear_1.bias"]
    _store(path, entries)


def _store(path, entries):
    fit_gene_encoder.save(path, entries)
    record = path.with_name("fit.json")
    files.write_json(record, files.read_json(record) | {"sha256": files.sha256_file(path)})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_damage, "encoder.pt: sha256"),
        (_unrecorded, "fit.json: file: found nothing"),
        (_wrong_shape, "entry mean.weight: found (4, 128)"),
        (_missing_entry, "entry linear_1.bias: found 1 entries missing"),
        (Path.unlink, "encoder.pt: file: found nothing; run fit_gene_encoder"),
    ],
)
def test_a_broken_encoder_stops_with_one_line(copied, change, said):
    change(copied)
    with pytest.raises(InputError) as error:
        gene_encoders.build(small_spec(), copied, GENES)
    assert said in one_line(error)


def test_an_encoder_of_other_genes_or_settings_is_refused(fitted):
    with pytest.raises(InputError, match=r"genes\.tsv, in another order; fit it again"):
        gene_encoders.build(small_spec(), fitted[0], GENES[::-1])
    with pytest.raises(InputError, match=r"arguments\.dropout: found 0\.1, and 0\.2"):
        gene_encoders.build(small_spec(dropout=0.2), fitted[0], GENES)


@pytest.mark.parametrize("name", ["drvi", "drvi_small", "drvi_published"])
@pytest.mark.parametrize("genes", [12, 280, 5001])
def test_the_encoder_has_the_declared_parameters(name, genes):
    spec = read_spec(name)
    drvi_fitting.check_arguments(spec)
    tower = gene_encoders.build(spec, None, [{"gene_symbol": f"G{i}"} for i in range(genes)])
    latent = spec["arguments"]["n_latent"]
    assert sum(p.numel() for p in tower.parameters()) == 128 * genes + 16640 + 129 * latent
    assert tower(torch.ones(2, genes, dtype=torch.int32)).shape == (2, spec["width"])


@pytest.mark.parametrize(
    ("spots", "expected"),
    [(500, (400, 400)), (20_000, (400, 400)), (20_050, (399, 199)), (160_000, (50, 25))],
)
def test_the_length_of_the_fit_is_the_published_rule(spots, expected):
    assert drvi_fitting.fit_length(spots, read_spec()["arguments"]) == expected


def test_the_measures_of_spots_are_those_of_scanpy(tmp_path):
    import anndata
    import scanpy as sc

    symbols = ["MT-CO1", "mt-nd1", *(f"G{i}" for i in range(58))]
    counts = np.random.default_rng(0).poisson(0.6, (40, 60)).astype(np.int32)
    data = anndata.AnnData(counts.astype(np.float32))
    data.var["mt"] = [symbol.upper().startswith("MT-") for symbol in symbols]
    sc.pp.calculate_qc_metrics(data, qc_vars=["mt"], percent_top=[20], inplace=True)

    class Blocks:
        def blocks(self, rows):
            return iter((counts[rows[:15]], counts[rows[15:]]))

    found = drvi_fitting.measure_spots(Blocks(), np.arange(40), symbols)
    for name, theirs in (
        ("transcripts", "log1p_total_counts"),
        ("genes", "log1p_n_genes_by_counts"),
        ("top_20", "pct_counts_in_top_20_genes"),
        ("mitochondrial", "pct_counts_mt"),
    ):
        assert np.allclose(found[name], data.obs[theirs], rtol=1e-5), name


def judged(measures, samples=None, **quality):
    size = len(measures["transcripts"])
    spots = {name: np.linspace(1, 2, size) for name in drvi_fitting.REASONS[1:]} | measures
    samples = np.zeros(size) if samples is None else samples
    default = read_spec()["arguments"]["quality"]
    return drvi_fitting.judge_spots(spots, samples, default | quality)


def test_spots_far_off_the_median_are_left_out_and_counted_once():
    values = np.linspace(4, 6, 41)  # median 5, deviation 0.5
    values[0], values[1] = 2.4, 2.6
    mitochondrial = np.linspace(1, 2, 41)
    mitochondrial[[0, 5]] = 8.5  # one of them is out already
    empty = np.full(41, 50.0)
    empty[7] = np.nan
    kept, left_out = judged(
        {"transcripts": values, "mitochondrial": mitochondrial, "top_20": empty + values}
    )
    assert np.flatnonzero(~kept).tolist() == [0, 5, 7]
    assert left_out == {
        "no_transcripts": 1,
        "transcripts": 1,
        "genes": 0,
        "top_20": 0,
        "mitochondrial": 1,
    }


def test_a_deviation_of_zero_empties_no_sample_unless_asked_to():
    shares = np.zeros(41)
    shares[:3] = 0.5  # most panels have few mitochondrial genes, or none
    measures = {"transcripts": np.linspace(4, 6, 41), "mitochondrial": shares}
    assert judged(measures)[0].all()
    assert judged(measures, zero_mad="drop")[1]["mitochondrial"] == 3


def test_a_shallow_sample_is_judged_by_its_own_median():
    values = np.r_[np.linspace(4.9, 5.1, 40), np.linspace(2.9, 3.1, 10)]
    samples = np.repeat(["deep", "shallow"], [40, 10])
    assert judged({"transcripts": values}, samples)[0].all()
    kept, left_out = judged({"transcripts": values}, samples, by="dataset")
    assert left_out["transcripts"] == 10
    assert kept[:40].all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fit_on": "all"}, "arguments.fit_on: found 'all'; allowed: train, published"),
        ({"epoch": 3}, "arguments.epoch: found an unknown key"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_read(dataset, tmp_path, change, said):
    with pytest.raises(InputError) as error:
        run(dataset[0], tmp_path, small_spec(**change))
    assert said in one_line(error)


def test_what_cannot_be_fitted_is_refused(dataset, tmp_path):
    folder = dataset[0]
    with pytest.raises(InputError, match="builder"):
        run(folder, tmp_path, specs.read_encoder(CONFIG, "gene", "mlp"))
    shutil.copytree(folder / "shards", tmp_path / "shards")
    for name in ("splits.tsv", "genes.tsv"):
        shutil.copy(folder / name, tmp_path)
    shutil.copy(folder / "shards" / "S3.arrow", tmp_path / "shards" / "S1.arrow")
    with pytest.raises(InputError) as error:
        run(tmp_path, tmp_path)
    assert "S1.arrow: sample: found S3" in one_line(error)
    assert not (tmp_path / "encoder.pt").exists()


def test_a_fit_that_diverges_stops_with_one_line():
    from scipy import sparse

    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(2, (129, 12)).astype(np.float32))
    arguments = small_spec()["arguments"] | {"learning_rate": 1e6}
    with pytest.raises(InputError) as error:
        drvi_fitting.fit(counts, np.full(129, "S1"), arguments, 0, 1, "A small DRVI")
    assert "arguments.learning_rate: found 1000000.0, with which the fit diverged" in one_line(
        error
    )

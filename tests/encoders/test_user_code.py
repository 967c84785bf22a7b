"""Code of the user's own as a gene encoder: only where the configuration allows it."""

import pytest
import yaml
from conftest import ROOT

from pairscape.core.errors import InputError
from pairscape.encoders import gene_encoders, specs, user_code
from pairscape.plan.reading import read_plan

CODE = """from torch import nn
from pairscape.encoders import gene_encoders, towers
class Own(towers.GeneTower):
    def prepare(self, counts):
        return counts.float()
def build(spec, weights, genes, train=None):
    return Own(nn.Linear(len(genes), spec["width"]), spec["width"])
"""
GENES = [{"gene_symbol": f"G{i}", "gene_id": ""} for i in range(5)]


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder of encoders with one that runs own.py."""
    monkeypatch.setattr(user_code, "_allowed", set())
    root = tmp_path / "encoders"
    for kind in specs.KINDS:
        (root / kind).mkdir(parents=True)
    for kind, name in (("image", "tf_efficientnet_lite0"), ("gene", "mlp")):
        file = specs.encoder_file(root, kind, name)
        file.write_bytes(specs.encoder_file(ROOT / "config/encoders", kind, name).read_bytes())
    spec = specs.read_encoder(root, "gene", "mlp")
    spec |= {"title": "Own", "builder": "module", "arguments": {"architecture": "own.py"}}
    spec |= {"width": 4, "parameters": 4, "parameters_per_gene": 4}
    specs.encoder_file(root, "gene", "own").write_text(yaml.safe_dump(spec))
    (root / "gene" / "own.py").write_text(CODE)
    return root


def planned(monkeypatch, root, genes, **keys):
    monkeypatch.chdir(ROOT)
    config = yaml.safe_load((ROOT / "tests/tiny.yaml").read_text()) | {"calibration": None}
    config["experiments"]["tiny"] |= {"gene_encoders": genes, "controls": []}
    config["experiments"]["tiny"]["image_encoders"] = ["tf_efficientnet_lite0"]
    return read_plan(config | {"encoders": str(root)} | keys, "mine.yaml")


def test_without_leave_an_encoder_with_code_is_refused_in_one_line(monkeypatch, root):
    with pytest.raises(InputError) as refusal:
        planned(monkeypatch, root, ["own"])
    assert str(refusal.value) == (
        "mine.yaml: experiments.tiny.gene_encoders[0]: found own, which runs code of its own "
        "(own.py); read that file, then allow the folder that holds it: allow_code_in: <folder>"
    )


def test_it_disturbs_nobody_who_doesnt_use_it(monkeypatch, root):
    made = planned(monkeypatch, root, ["mlp"])
    assert "code" not in made.encoder("gene", "own")


def test_leave_for_another_folder_is_none(monkeypatch, root, tmp_path):
    outside = tmp_path / "elsewhere.py"
    outside.write_text(CODE)
    (root / "gene" / "own.py").unlink()
    (root / "gene" / "own.py").symlink_to(outside)  # where it lies decides, not its name
    with pytest.raises(InputError, match="which runs code of its own"):
        planned(monkeypatch, root, ["own"], allow_code_in=str(root))


def test_with_leave_its_jobs_build_it_and_no_other_code(monkeypatch, root):
    made = planned(monkeypatch, root, ["own"], allow_code_in=str(root))
    spec = made.encoder("gene", "own")
    with pytest.raises(InputError, match="code that nobody has allowed here"):
        gene_encoders.build(spec, None, GENES)
    user_code.allow(spec)
    tower = gene_encoders.build(spec, None, GENES)
    assert (tower.width, tower.training) == (4, True)
    (root / "gene" / "own.py").write_text(CODE + "# changed\n")
    with pytest.raises(InputError, match="another file than was planned with"):
        gene_encoders.build(spec, None, GENES)
    again = planned(monkeypatch, root, ["own"], allow_code_in=str(root)).encoder("gene", "own")
    assert specs.spec_sha256(again) != specs.spec_sha256(spec)


def test_a_file_that_isnt_there_or_builds_nothing_is_told(monkeypatch, root):
    file = root / "gene" / "own.py"
    file.write_text("x = 1\n")
    spec = planned(monkeypatch, root, ["own"], allow_code_in=str(root)).encoder("gene", "own")
    user_code.allow(spec)
    with pytest.raises(InputError, match="build: found nothing; define build"):
        gene_encoders.build(spec, None, GENES)
    file.unlink()
    with pytest.raises(InputError, match="no such file"):
        planned(monkeypatch, root, ["own"], allow_code_in=str(root))

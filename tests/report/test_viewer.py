"""The viewer: one offline page in which a click on a spot shows that spot."""

import html
import json
import re
import shutil
import subprocess

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from pairscape.report import viewer

NAMES = ["000x000", "000x001", "001x000"]


def shown(genes=4, spots=3, **changes):
    rng = np.random.default_rng(0)
    counts = sparse.csr_matrix(rng.poisson(2, (spots, genes)).astype(np.int32))
    names = NAMES if spots == 3 else [f"s{i}" for i in range(spots)]
    obs = pd.DataFrame(
        {"transcripts": counts.sum(axis=1).A1, "genes": np.diff(counts.indptr)}, names
    )
    table = anndata.AnnData(counts, obs, pd.DataFrame(index=[f"GENE{i}" for i in range(genes)]))
    side = int(np.ceil(np.sqrt(spots)))
    centres = np.array([[30.0 + 60 * (i % side), 40.0 + 60 * (i // side)] for i in range(spots)])
    square = np.array([[-20.0, -20], [20, -20], [20, 20], [-20, 20]])
    picture = np.full((150, 200, 3), 230, np.uint8)
    given = {
        "splits": ["test"] * spots,
        "ranks": np.arange(1, spots + 1),
        "partners": {1: [("000x000", 0), ("9x9 of </script><b>S2", -1)]},
        "run": "a with b, seed 1",
    }
    return viewer.Shown("S1", table, centres, square, picture, 0.5, **{**given, **changes})


def clicked(tmp_path, page, place):
    """The text beside the map after a click on it at a pixel of the picture, in a browser."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here")
    click = """<script>
    const timer = setInterval(() => {
      if (!window.pairscape) return;
      clearInterval(timer);
      const {map, place} = window.pairscape, canvas = document.querySelector("#map canvas");
      const at = map.latLngToContainerPoint(place(PLACE));
      const box = document.getElementById("map").getBoundingClientRect();
      const where = {bubbles: true, clientX: box.left + at.x, clientY: box.top + at.y};
      for (const kind of ["mousemove", "mousedown", "mouseup", "click"])
        canvas.dispatchEvent(new MouseEvent(kind, where));
    }, 50);
    </script>"""
    path = tmp_path / "page.html"
    path.write_text(page.replace("</body>", click.replace("PLACE", json.dumps(place)) + "</body>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=8000"]
    done = subprocess.run(
        [browser, *flags, "--window-size=1000,700", "--dump-dom", f"file://{path}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    section = re.search(r'<section id="spot".*?</section>', done.stdout, re.S)[0]
    return html.unescape(re.sub(r"<[^>]+>", " ", section))


@pytest.mark.slow
def test_a_click_on_a_spot_shows_its_name_its_count_and_what_it_retrieves(tmp_path):
    one = shown()
    said = clicked(tmp_path, viewer.render(one), one.centres[1].tolist())
    assert "Spot 000x001" in said
    assert f"transcripts {one.table.obs['transcripts'].iloc[1]}" in re.sub(r"\s+", " ", said)
    assert "9x9 of </script><b>S2" in said  # as text


def test_the_page_asks_nothing_of_the_network_and_holds_names_as_text():
    page = viewer.render(shown())
    loaded = re.findall(r'src\s*=\s*"([^"]*)"|url\(([^)]*)\)|<link[^>]*href="([^"]*)"', page)
    for address in filter(None, (one for found in loaded for one in found)):
        assert not address.startswith(("http", "//")), address
    assert "<b>S2" not in page
    assert "BSD 2-Clause" in page


def test_genes_that_vary_least_are_left_out_where_they_do_not_fit(monkeypatch):
    one = shown(genes=400, spots=900)
    whole = len(viewer.render(one))
    monkeypatch.setattr(viewer, "BYTES", whole - 100_000)
    page = viewer.render(one)
    assert len(page) <= viewer.BYTES
    kept = json.loads(
        viewer.gzip.decompress(
            viewer.base64.b64decode(
                re.search(r'TextDecoder\(\)\.decode\(await unpack\("([^"]+)"', page)[1]
            )
        )
    )
    assert 0 < len(kept["genes"]) < kept["genes_in_all"] == 400
    variances = viewer._variances(one.table.X)
    left_out = set(one.table.var_names) - set(kept["genes"])
    number = {name: i for i, name in enumerate(one.table.var_names)}
    least_kept = min(variances[number[name]] for name in kept["genes"])
    assert max(variances[number[name]] for name in left_out) <= least_kept


def test_geojson_has_a_closed_ring_of_each_spot_in_pixels_of_the_slide():
    made = json.loads(viewer.geojson(shown(), 4.0))
    assert [one["properties"]["name"] for one in made["features"]] == NAMES
    (ring,) = made["features"][1]["geometry"]["coordinates"]
    assert ring[0] == ring[-1] == [(90 - 20) * 4.0, (40 - 20) * 4.0]
    assert made["features"][0]["properties"]["classification"] == {"name": "test"}

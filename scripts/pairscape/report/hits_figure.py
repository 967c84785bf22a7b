"""The figure of what is retrieved: query patches and their hits, the right one marked, with genes.

Of each dataset it shows the pair with the highest Recall@5 (mean of both directions, first seed, no
control), and of that pair the queries that ``hits_table`` chooses.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from pairscape.report import style
from pairscape.report.hits_table import examples
from pairscape.report.words import encoder_title

K = 5
GENES = 3
_GREEN, _GREY = "#009E73", "#888888"
_ASKS = {"i2g": "its image looks for genes", "g2i": "its genes look for an image"}


@dataclass(frozen=True)
class Spot:
    """A spot as the figure shows it: its patch, uint8 (side, side, 3), and its leading genes."""

    patch: np.ndarray
    genes: Sequence[str]


@dataclass(frozen=True)
class Gallery:
    """The spots of a dataset's test split, read from its shards by sample and name.

    The leading genes of a spot are those whose log counts exceed their mean over the split most.
    """

    shards: Mapping[str, object]  # path by sample
    _means: list = field(default_factory=list)

    def spot(self, sample: str, name: str) -> Spot:
        """Read one."""
        import pyarrow.compute as pc

        from pairscape.dataset import pair_shards
        from pairscape.images import encoding

        path = self.shards[sample]
        table = pair_shards.read_shard_table(path)
        row = pc.index(table["spot"], name).as_py()
        patch = encoding.decode(table["image"][row].as_py()["bytes"], path, row)
        counts = np.array(table["gexp"][row].as_py(), np.int64).ravel()
        above = np.log1p(counts) - self._mean()
        genes = pair_shards.shard_metadata(path)["genes"]
        leading = [i for i in np.argsort(-above, kind="stable")[:GENES] if counts[i]]
        return Spot(np.asarray(patch), [genes[i] for i in leading])

    def _mean(self) -> np.ndarray:
        from pairscape.dataset import pair_shards

        if not self._means:
            sums, rows = 0.0, 0
            for path in self.shards.values():
                for block in pair_shards.map_expression(path):
                    sums, rows = sums + np.log1p(block).sum(axis=0), rows + len(block)
            self._means.append(sums / rows)
        return self._means[0]


def best_pair(tables: Mapping[tuple, object], controls: Sequence = ()) -> dict[str, tuple]:
    """By dataset the image and gene encoder with the highest Recall@5.

    ``tables`` are those of ``hits_table.first_runs``; of ``controls``, pairs of encoders, one is taken
    only where a dataset has no other.
    """
    recalls: dict[tuple, list[float]] = {}
    for (dataset, image, gene, _), table in tables.items():
        recalls.setdefault((dataset, image, gene), []).append((table["rank"] <= K).mean())
    left_out = {tuple(pair) for pair in controls}
    best: dict[str, tuple] = {}
    for dataset, *pair in sorted(recalls, key=lambda k: (k[1:] in left_out, -np.mean(recalls[k]))):
        best.setdefault(dataset, tuple(pair))
    return best


def plot_hits(
    tables: Mapping[tuple, object],
    galleries: Mapping[str, Gallery],
    pairs: Mapping[str, tuple],
    title: str,
    titles: Mapping = MappingProxyType({}),
):
    """Draw the ``pairs`` of datasets, as ``best_pair`` chose them, a row per query and direction."""
    rows = [
        (dataset, direction, name, query)
        for dataset, pair in pairs.items()
        for direction in _ASKS
        for name, query in examples(tables[dataset, *pair, direction])
    ]
    if not rows:
        figure = style.new_figure(6, 1)
        figure.suptitle(f"{title}: no run has hits", fontsize=11)
        return figure
    count = max(len(query["hit_spots"]) for *_, query in rows)
    figure = style.new_figure(1.3 + 1.1 * count, 1.85 * len(rows) + 0.9)
    figure.set_layout_engine("none")
    head = 0.75 / figure.get_figheight()
    grid = figure.add_gridspec(
        len(rows),
        count + 2,
        width_ratios=[1, 0.12, *[1] * count],
        left=0.01,
        right=0.99,
        top=1 - head - 0.3 / figure.get_figheight(),
        bottom=0.55 / figure.get_figheight(),
        wspace=0.06,
        hspace=0.82,
    )
    for line, (dataset, direction, name, query) in enumerate(rows):
        axes = [figure.add_subplot(grid[line, i]) for i in (0, *range(2, count + 2))]
        _draw_row(axes, galleries[dataset], direction, query)
        image, gene = pairs[dataset]
        pair = f"{encoder_title(titles, 'image', image)} with {encoder_title(titles, 'gene', gene)}"
        whose = f"{dataset}, {pair}: " if line % 6 == 0 and len(pairs) > 1 else ""
        words = (
            f"{whose}{name} query, {_ASKS[direction]}; its partner is at rank {query['rank']:g} of "
            f"{query['gallery_size']:,}"
        )
        axes[0].text(
            0,
            1.24,
            words[:1].upper() + words[1:],
            transform=axes[0].transAxes,
            fontsize=9,
            fontweight="bold",
        )
    if len(pairs) == 1:
        title += f": {pair}"
    figure.text(0.01, 1 - head / 2, title, fontsize=12, va="bottom")
    handle = style.handle("the right partner", color=_GREEN, linewidth=3)
    figure.legend(
        handles=[handle], loc="upper left", bbox_to_anchor=(0.005, 1 - head / 2), frameon=False
    )
    return figure


def _draw_row(axes: Sequence, gallery: Gallery, direction: str, query: Mapping) -> None:
    spot = gallery.spot(query["sample"], query["spot"])
    # Of the query, what it looks with stands out, and what it looks for is pale.
    by_image = direction == "i2g"
    axes[0].imshow(spot.patch, alpha=1 if by_image else 0.35)
    weight = {"color": _GREY} if by_image else {"fontweight": "bold"}
    _finish(axes[0], "query", spot.genes, weight)
    hits = zip(query["hit_samples"], query["hit_spots"], query["distances_um"], strict=True)
    for number, (panel, (sample, name, away_um)) in enumerate(zip(axes[1:], hits, strict=False)):
        hit = gallery.spot(sample, name)
        right = (sample, name) == (query["sample"], query["spot"])
        panel.imshow(hit.patch)
        where = sample if away_um is None or np.isnan(away_um) else f"{away_um:,.0f} µm off"
        _finish(panel, f"{number + 1}: {'partner' if right else where}", hit.genes, {})
        if right:
            panel.title.set(color=_GREEN, fontweight="bold")
            for spine in panel.spines.values():
                spine.set(visible=True, color=_GREEN, linewidth=3.5)
    for panel in axes[1 + len(query["hit_spots"]) :]:
        panel.set_visible(False)


def _finish(panel, heading: str, genes: Sequence[str], looks: Mapping) -> None:
    panel.set(xticks=[], yticks=[])
    panel.spines[:].set_visible(False)
    panel.set_title(heading, fontsize=7.5, pad=3)
    words = "\n".join(genes) or "no transcripts"
    panel.set_xlabel(words, fontsize=7, labelpad=2, **looks)

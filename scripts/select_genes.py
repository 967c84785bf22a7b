"""Choose the genes of a dataset: those of its panel that all its samples measured, by symbol.

IN   spots.zarr of each sample (in the order of options.samples), the panel's list
OUT  genes.tsv (gene_symbol, gene_id)

Options: dataset, panel, samples, min_panel_share.

Genes that were added to a sample's panel and controls are out. Without spots (pairs that are
imported from the published data set) the genes are the panel's list. A sample of another panel stops
the run; nothing is dropped by itself.
"""

from pairscape.core.errors import InputError, one_each
from pairscape.core.logs import log
from pairscape.core.names import read_panel_list
from pairscape.dataset.gene_lists import select_genes, write_genes
from pairscape.jobs import program

RESULT_VERSION = 2


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        spots=program.Many("optional: spots.zarr of each sample"),
        panel="optional: the panel's list (gene_symbol, ensembl_id)",
        genes=program.Output("genes.tsv to write"),
    )
    dataset, samples = args.options["dataset"], args.options["samples"]
    panel = read_panel_list(args.panel) if args.panel else None
    if args.spots is None:
        if panel is None:
            raise InputError("--spots", "files", "none, and no --panel", "give one of them")
        write_genes(args.genes, sorted(panel.items()))
        log.info("%s: %d genes of the list %s", dataset, len(panel), args.panel)
        return
    from pairscape.spots.spots_zarr import read_spots

    one_each(args.spots, samples, "--spots")
    genes_of = {}
    for sample, path in zip(samples, args.spots, strict=True):
        var = read_spots(path).var
        genes_of[sample] = dict(zip(var.index, var["gene_id"].astype(str), strict=True))
    place = f"datasets.{dataset}.samples"
    min_share = args.options.get("min_panel_share", 0.9)
    genes = select_genes(genes_of, panel, min_share, place=place)
    if not genes:
        raise InputError("--options", place, "no gene that all measured", "list others")
    write_genes(args.genes, genes)
    chosen = {symbol for symbol, _ in genes}
    for sample, measured in genes_of.items():
        if added := len(measured.keys() - (panel or chosen)):
            log.info("%s: %d genes of %s are not of the panel and left out", dataset, added, sample)
        if lacks := sorted((panel or {}).keys() - measured.keys()):
            some = ", ".join(lacks[:5]) + (" ..." if len(lacks) > 5 else "")
            words = "%s: %s lacks %d of the panel's %d genes, so the dataset does: %s"
            log.warning(words, dataset, sample, len(lacks), len(panel), some)
    log.info("%s: %d genes that all %d samples measured", dataset, len(genes), len(samples))


if __name__ == "__main__":
    program.run(main)

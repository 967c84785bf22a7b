"""Choose the genes of a dataset: those that all its samples measured, sorted by symbol.

IN   spots.zarr of each sample (in the order of options.samples)
OUT  genes.tsv (gene_symbol, gene_id)

Options: dataset, panel, samples.
"""

from pairscape import program
from pairscape.errors import InputError
from pairscape.pairs import select_genes, write_genes
from pairscape.program import log

RESULT_VERSION = 1


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        spots=program.Many("spots.zarr of each sample"),
        genes="genes.tsv to write",
    )
    from pairscape.spots import read_spots

    dataset, samples = args.options["dataset"], args.options["samples"]
    if len(args.spots) != len(samples):
        raise InputError(
            "--spots",
            "files",
            f"{len(args.spots)} for {len(samples)} samples",
            "give one spots.zarr per sample, in the order of options.samples",
        )
    genes_of = {}
    for sample, path in zip(samples, args.spots, strict=True):
        var = read_spots(path).var
        genes_of[sample] = dict(zip(var.index, var["gene_id"].astype(str), strict=True))
    genes = select_genes(genes_of, place=f"datasets.{dataset}.samples")
    if not genes:
        raise InputError(
            "--options", f"datasets.{dataset}.samples", "no gene that all measured", "list others"
        )
    write_genes(args.genes, genes)
    left_out = len(set().union(*genes_of.values())) - len(genes)
    log.info(
        "%s: %d genes that all %d samples measured; %d measured by some only are left out",
        dataset,
        len(genes),
        len(samples),
        left_out,
    )


if __name__ == "__main__":
    program.run(main)

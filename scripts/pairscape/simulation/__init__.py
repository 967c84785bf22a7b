"""Simulated tissue: one latent tissue that causes an H&E image and a Xenium bundle.

``knobs``, ``kinds``
    what can be turned, and the seeds that follow from a sample's name; the words of a tissue.
``fields``, ``tissue``, ``placement``
    smooth random fields; domains and states grown from them, and the mixing of two tissues;
    structures and cells.
``histology``, ``staining``
    drawing the tissue as haematoxylin and eosin, and as DAPI.
``segmentation``
    nucleus and cell outlines, and their rasters.
``panel``, ``programmes``, ``transcripts``, ``tiles``
    genes, their expression, the molecules they cause, and how many lie in each tile.
``sample``, ``sections``
    a sample in memory, and its spots.
``bundle_writer`` and what it calls
    the files of the instrument (analysis software 3), and the truth beside them.
``layouts``
    the same files as other versions of the software lay them out.
``whole_slides``
    cohorts of whole slides with labels and sites, without transcripts.
"""

"""Simulated tissue: one latent tissue that causes an H&E image and a Xenium bundle.

``knobs``
    what can be turned, and the seeds that follow from a sample's name.
``fields``
    smooth random fields, the ground on which a tissue grows.
``tissue``
    cell types, structures and cells grown from fields; the mixing of two tissues.
``histology``
    drawing the tissue as haematoxylin and eosin, and as DAPI.
``segmentation``
    nucleus and cell outlines, and their rasters.
``transcripts``
    expression programmes over a gene panel, and the molecules they cause.
``bundle_writer``
    the files of the instrument (analysis software 3), and the truth beside them.
``layouts``
    the same files as other versions of the software lay them out.
``whole_slides``
    cohorts of whole slides with labels and sites, without transcripts.
"""

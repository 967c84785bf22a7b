"""Any H&E or whole slide: size in µm, thumbnail, regions, patches, retiling, tissue."""

"""Errors, whole files, tables, options by schema, the log: what every room may use."""

"""Protocols, their flags, and what each quirk does to the scores."""

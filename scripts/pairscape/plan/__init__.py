"""A configuration read, checked and turned into what the rules ask for."""

"""Gene lists, splits and leakage, cutting pairs, shards, cards, stored features."""

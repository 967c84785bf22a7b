"""One's own sample: looked at, written into a configuration, and run."""

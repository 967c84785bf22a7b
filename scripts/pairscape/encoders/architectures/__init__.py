"""The networks that no library builds for us, one module each."""

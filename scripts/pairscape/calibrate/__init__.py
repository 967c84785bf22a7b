"""What the scores are worth, on tissue whose truth is known."""

"""Tables, figures and the chapters of one page."""

"""One notebook's use of a sandbox; no IPython."""

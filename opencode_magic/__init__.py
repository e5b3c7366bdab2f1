"""Jupyter magics that run the OpenCode agent in a locked-down sandbox."""

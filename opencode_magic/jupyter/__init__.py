"""The IPython and ipywidgets side."""

from __future__ import annotations

from opencode_magic.session.notebook import notebook_name


def test_name_from_jupyter() -> None:
    """The notebook is named as Jupyter Server names it, without folder and ending."""
    assert notebook_name({"JPY_SESSION_NAME": "/home/ada/prices/summer.ipynb"}) == "summer"


def test_name_where_none_is_known() -> None:
    """A kernel without a notebook has a plain name."""
    assert notebook_name({}) == "notebook"

"""The 360° viewer of the project's pages: WebGL 2, without a library, with the conventions of `cora.geometry`.

``camera.js`` is the geometry and ``viewer.js`` the class ``Viewer`` on it; a page loads both, in this order, before its
own script.
"""

from __future__ import annotations

from importlib.resources import files

__all__ = ["SCRIPTS", "viewer_source"]

SCRIPTS = ("camera.js", "viewer.js")


def viewer_source(name: str) -> str:
    """Return the text of one of `SCRIPTS`."""
    return files("cora.viewer").joinpath(name).read_text(encoding="utf-8")

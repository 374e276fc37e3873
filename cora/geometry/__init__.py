"""Pure functions of angles, rays and pixels: the sphere, cameras, sampling positions, view layouts, view overlap.

Angles are radians (names end in ``_rad`` or are ``lon``/``lat``), except in `cora.types.ViewSpec`, which is metadata
and holds degrees. The conventions are listed in ``docs/conventions.md``.
"""

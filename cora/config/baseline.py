"""The settings of a published vision-language model finetuned on panoramas as a baseline.

Reached as `cora.config.schema.BaselineConfig`, beside the configuration of CORA's own models. Nothing trains a baseline
yet, so it accepts no key: those of the research code's files are retired, and loading such a file says so of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from cora.config.retired import RETIRED_OF_BASELINES
from cora.config.sections import Section

__all__ = ["BaselineConfig"]


class BaselineConfig(Section):
    """What a baseline run needs: nothing, as long as none can be run."""

    retired_keys: ClassVar[Mapping[str, str]] = RETIRED_OF_BASELINES

"""Where log records go while a command runs: to stderr, in colour on a terminal, as plain lines elsewhere."""

from __future__ import annotations

import logging
import sys


def configure_logging(*, debug: bool) -> None:
    """Show CORA's own records from INFO up and those of libraries from WARNING up; with `debug`, CORA's DEBUG too."""
    root = logging.getLogger()
    for handler in [item for item in root.handlers if getattr(item, "made_by_cora", False)]:
        root.removeHandler(handler)
    handler = _terminal_handler() if sys.stderr.isatty() else _plain_handler()
    handler.made_by_cora = True  # type: ignore[attr-defined]  # marks it for a second call in the same process
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("cora").setLevel(logging.DEBUG if debug else logging.INFO)
    logging.captureWarnings(True)


def _terminal_handler() -> logging.Handler:
    from rich.console import Console
    from rich.logging import RichHandler

    return RichHandler(console=Console(stderr=True), show_path=False, log_time_format="[%X]")


def _plain_handler() -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    return handler

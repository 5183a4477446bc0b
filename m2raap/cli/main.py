"""The command line: parse, load, call a stage, print. Slow imports stand inside the commands, so that --help is instant."""

from __future__ import annotations

import atexit
import difflib
import errno
import io
import os
import re
import shlex
import sys
import threading
import traceback
from functools import lru_cache
from typing import Any

import typer
from typer.core import TyperCommand

from m2raap.cli import annotate, data, evaluate, inspect, model, recipe, report, run, search, stages
from m2raap.core import extension, interrupt, talk
from m2raap.core.errors import M2raapError

app = typer.Typer(
    name="m2raap",
    help="Train a zero-shot video-text retrieval model, in English and Chinese, from raw videos and captions.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
QUIET_HELP = "print no progress and no notes on stderr"
ALLOW_CODE_HELP = "run the code that settings name as python:module:name, from this folder or installed packages"


def _everywhere(
    quiet: bool = typer.Option(
        False,
        "--quiet",
        "-q",
        help=QUIET_HELP,
        callback=lambda quiet: talk.be_quiet(True) if quiet else None,
        expose_value=False,
    ),
    allow_code: bool = typer.Option(
        False,
        "--allow-code",
        help=ALLOW_CODE_HELP,
        callback=lambda allowed: extension.allow_code(True) if allowed else None,
        expose_value=False,
    ),
) -> None:
    """Only its options are used: every command has them, so that they may stand before the command or after it."""


_of_options = typer.Typer(add_completion=False)
_of_options.command()(_everywhere)
_EVERYWHERE = typer.main.get_command(_of_options).params


class _Command(TyperCommand):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += _EVERYWHERE


for command in (run, stages, evaluate, inspect):
    command.register(app)
GROUPS = (annotate, data, model, recipe, report, search)
for group in GROUPS:
    app.add_typer(group.app, name=group.__name__.rpartition(".")[2])
for each in (app, *(group.app for group in GROUPS)):
    for registered in each.registered_commands:
        registered.cls = _Command


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    quiet: bool = typer.Option(False, "--quiet", "-q", help=QUIET_HELP),
    allow_code: bool = typer.Option(False, "--allow-code", help=ALLOW_CODE_HELP),
    version: bool = typer.Option(False, "--version", help="print the version"),
) -> None:
    talk.be_quiet(quiet)
    extension.allow_code(allow_code)
    if version:
        from importlib.metadata import version as installed

        typer.echo(installed("m2raap"))
        raise typer.Exit


# Faults of paths, permissions and the machine, which are no bugs of m2raap.
_MACHINE_ERRNOS = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EIO,
    errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.EEXIST, errno.ENOTEMPTY, errno.EBUSY, errno.EXDEV, errno.ENXIO,
    errno.ENODEV, errno.ETXTBSY, errno.ETIMEDOUT,
}  # fmt: skip


# The machine gives this process no more of something; the error names no file.
_SHORTAGES = {
    errno.EMFILE: "this process may open no more files; allow more (ulimit -n), or give fewer --workers",
    errno.ENFILE: "this machine can open no more files",
    errno.ENOMEM: "the memory is not enough; give fewer --workers, or more memory",
    errno.EAGAIN: "this user may start no more processes; allow more (ulimit -u), or give fewer --workers",
}


def main() -> None:
    """Runs the command and ends the process. Every failure ends in one clear sentence and its exit code."""
    talk.open_closed_streams()
    sys.stdout = talk.on_terminal(sys.stdout)
    interrupt.end_as_ctrl_c()
    try:
        code = run_command_line()
    except KeyboardInterrupt:  # while the end of the command was being reported
        code = _interrupted()
    if code == 130:
        # Python remembers an interrupt that came while an extension was being imported, and kills itself by that signal when
        # it exits, although the interrupt was handled. So the exit functions are run here, and the process ends at once.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


@lru_cache(maxsize=1)
def parser() -> Any:
    """The commands as Click's parser, which takes 0.1 s to build; several commands of one process share it."""
    return typer.main.get_command(app)


def run_command_line() -> int:
    """Runs the command in sys.argv and returns its exit code. A failure is reported as one sentence on stderr."""
    try:
        result = parser()(standalone_mode=False, prog_name="m2raap")
        return _interrupted() if result == 130 else result if isinstance(result, int) else 0
    except KeyboardInterrupt:
        return _interrupted()
    except M2raapError as error:
        _report(f"m2raap: {error}")
        return error.exit_code
    except BrokenPipeError:
        return _pipe_closed()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            where = f"{error.filename}: " if error.filename else ""
            _report(f"m2raap: {where}the disk is full; free some space and run the same command again: it resumes")
            return 1
        if not error.filename and error.errno in _SHORTAGES:
            _report(f"m2raap: {_SHORTAGES[error.errno]}")
            return 1
        if error.filename and error.errno in _MACHINE_ERRNOS:
            name = os.fsdecode(error.filename) if isinstance(error.filename, bytes | str) else error.filename
            _report(f"m2raap: {name}: {error.strerror}; check the path and its permissions")
            return 1
        return _bug()
    except MemoryError:
        _report(f"m2raap: {_SHORTAGES[errno.ENOMEM]}")
        return 1
    except UnicodeEncodeError as error:
        # A path with bytes that are no UTF-8. Folders are read with them, but libraries, such as pyarrow, take no such path.
        if not _is_path_of_bytes(error.object):
            return _bug()
        _report(f"m2raap: {error.object}: this path is not UTF-8; rename the file or folder")
        return 1
    except SystemExit as end:  # m2raap never raises it here: code of the user's, or a library, asked Python to end
        if isinstance(end.__context__, BrokenPipeError):  # typer ends so
            return _pipe_closed()
        return _bug()
    except Exception as error:
        return _click_error(error)
    finally:
        extension.allow_code(False)  # several commands of one process do not share the permission


def _pipe_closed() -> int:
    """The program that reads the output has closed it: Python writes the rest nowhere. Returns the exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _is_path_of_bytes(text: str) -> bool:
    """Whether a text with halves of characters comes from a path that was given to this command, or in which it was given."""
    return any("\udc80" <= char <= "\udcff" for char in text) and (
        os.path.lexists(text) or any(word in text for word in [*sys.argv[1:], os.getcwd()] if not _is_utf8(word))
    )


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _click_error(error: Exception) -> int:
    """Reports an exception of the parser (wrong usage, or Ctrl-C as its Abort); all other exceptions are bugs. Returns the
    exit code."""
    kind = {cls.__name__ for cls in type(error).__mro__}
    if "Abort" in kind:
        return _interrupted()
    if "Exit" in kind:
        code = int(getattr(error, "exit_code", 0))
        return _interrupted() if code == 130 else code  # Typer turns Ctrl-C into an exit of this code
    if "ClickException" in kind:
        show = getattr(error, "show", None)
        if show is not None:
            text = io.StringIO()
            show(text)
            message = text.getvalue().removesuffix("\n")
            meant = _command_meant(message)  # Click's own suggestion knows the commands of one group
            _report((re.sub(r" Did you mean .*", "", message) if meant else message) + meant)
        return 2
    return _bug()


def _command_meant(message: str) -> str:
    """For a command that does not exist, the commands of that name in a group, or of a similar name."""
    unknown = re.search(r"No such command '(.+?)'", message)
    if unknown is None:
        return ""
    groups = [(name, getattr(command, "commands", {})) for name, command in parser().commands.items()]
    paths = [name for name, inner in groups if not inner] + [f"{name} {sub}" for name, inner in groups for sub in inner]
    by_last_word = {path: path.rpartition(" ")[2] for path in paths}
    near = difflib.get_close_matches(unknown[1], by_last_word.values(), n=1)
    meant = [f"'m2raap {path}'" for path, word in by_last_word.items() if word in near]
    if unknown[1] == "score":  # no name of a command is like it
        meant = ["'m2raap evaluate SCORES.npy'"]
    return f" Did you mean {' or '.join(meant)}?" if meant else ""


def _interrupted() -> int:
    if threading.current_thread() is threading.main_thread():
        interrupt.ignore_all()  # a second Ctrl-C must not interrupt the clean-up
    if os.environ.get("RANK", "0") != "0":  # of the processes of torchrun the first one speaks
        return 130
    command = shlex.join([*_launcher(), *sys.argv[1:]])
    kept = interrupt.take_notes() or "finished work is kept"
    _report(f"\nm2raap: interrupted; {kept}. The same command resumes it:\n  {command}")
    return 130


def _launcher() -> list[str]:
    """The words before those of the command, as a shell takes them."""
    of_machine = os.environ.get("LOCAL_WORLD_SIZE", "1")
    if of_machine == "1":
        return ["m2raap"]
    return ["torchrun", "--nproc_per_node", of_machine, "-m", "m2raap.cli.main"]


def _bug() -> int:
    trace = traceback.format_exc()
    if os.environ.get("M2RAAP_DEBUG"):
        _report(trace)
        return 1
    last = trace.strip().splitlines()[-1]
    files = extension.files_in_use(trace)
    culprit = f"a fault in {', '.join(files)}, or in how m2raap uses it" if files else "this is a bug in m2raap"
    log = talk.write_trace(trace)
    _report(f"m2raap: {culprit}: {last}\nThe traceback is in {log}; M2RAAP_DEBUG=1 prints it.")
    return 1


def _report(sentence: str) -> None:
    """Prints on stderr how a command ended, also with --quiet."""
    print(talk.plain(sentence), file=sys.stderr)


if __name__ == "__main__":
    main()

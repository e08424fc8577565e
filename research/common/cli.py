"""Code shared by the commands: flags, one-line errors, logging, the compilation cache."""

import logging
import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

import jax
from absl import app, flags
from absl import logging as absl_logging

from research.common.cache import cache_folder
from research.common.errors import Interrupted, UserError
from research.common.processes import are_several, join, leave
from research.common.progress import LogHandler

log = logging.getLogger("research")
flags.disclaim_key_flags()  # `--help` of a command lists the flags that it defines by this module

_CHANGES = "config.KEY"  # a flag of this name collects all --config.KEY=VALUE


def run(
    main: Callable[[list[str]], None], required: tuple[str, ...], positional: bool = False
) -> None:
    """Runs a command, after its flags were defined.

    Args:
      main: the command; its argument is the list of positional arguments.
      required: names of the flags that must be given.
      positional: whether the command takes positional arguments.
    """

    def parse(argv: list[str]) -> list[str]:
        name, *arguments = _parse(argv)
        if arguments and not positional:
            _refuse(UserError(f"unexpected argument '{arguments[0]}': expected flags (--help)"))
        return [name, *arguments]

    flags.mark_flags_as_required(required)
    app.run(lambda argv: _guard(lambda: main(argv[1:])), flags_parser=parse)


def define_config_changes() -> None:
    """Defines `--config.KEY=VALUE`, whose values `config_changes` returns."""
    flags.DEFINE_multi_string(
        _CHANGES,
        [],
        "Changes a key of the experiment, such as --config.batch_size=32; "
        "`python -m research.config FILE` lists the keys.",
    )


def config_changes() -> list[str]:
    """Returns the `KEY=VALUE` of each `--config.KEY=VALUE` on the command line."""
    return list(flags.FLAGS[_CHANGES].value or ())


def define_run_flags() -> None:
    """Defines the flags of the commands that open a trained run."""
    flags.DEFINE_string("workdir", None, "Folder of the run.")
    flags.DEFINE_integer(
        "average",
        1,
        "Number of checkpoints to average the parameters of, the newest ones.",
        lower_bound=1,
    )
    flags.DEFINE_multi_string(
        "change",
        [],
        "Changes a key of the run's config without saving it, "
        "such as --change=task.decoding.beam_size=8.",
    )


def _parse(argv: list[str]) -> list[str]:
    """Parses the flags; exits with a one-line error if they are invalid."""
    if "--help" in argv or "-h" in argv:
        print(f"{sys.modules['__main__'].__doc__}\n{flags.FLAGS.main_module_help()}")
        sys.exit(0)
    try:
        argv = flags.FLAGS.read_flags_from_files(argv, force_gnu=False)
        if _CHANGES in flags.FLAGS:
            argv = [_collected(argument) for argument in argv]
        return flags.FLAGS(argv)
    except (UserError, flags.Error) as error:
        _refuse(error)


def _collected(argument: str) -> str:
    """Rewrites `--config.a.b=1` to `--config.KEY=a.b=1`, since absl flags have fixed names."""
    change = re.fullmatch(r"--?config\.([^=]*)(=.*)?", argument, re.DOTALL)
    if change is None:
        return argument
    if change[2] is None:
        raise UserError(f"invalid flag {argument}: expected --config.KEY=VALUE")
    return f"--{_CHANGES}={change[1]}{change[2]}"


def _guard(main: Callable[[], None]) -> None:
    _quiet_logging()
    _keep_compilations()
    try:
        join()
        main()
    except UserError as error:
        _refuse(error)
    except Interrupted as end:
        if jax.process_index() == 0:
            log.warning("%s", end)
        sys.exit(end.exit_code)
    except Exception:
        if not are_several():
            raise
        traceback.print_exc()
        leave(1)


def _refuse(error: BaseException) -> NoReturn:
    """Prints an error in one line and exits with code 2."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    leave(2)


def _quiet_logging() -> None:
    absl_logging.set_verbosity(absl_logging.WARNING)  # Orbax logs each step of a save at INFO
    handler = LogHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    ours = logging.getLogger("research")
    ours.handlers, ours.propagate = [handler], False
    ours.setLevel(logging.INFO)


def _keep_compilations() -> None:
    """Enables XLA's persistent cache in the user's cache folder, unless another one is set."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

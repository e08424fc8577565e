"""Code shared by the commands: flags, one-line errors, logging, the compilation cache."""

import logging
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

import jax
from absl import app, flags
from absl import logging as absl_logging

from research.common.arguments import CHANGES, help_text, parse
from research.common.cache import cache_folder
from research.common.errors import SAVE_MEMORY, Interrupted, UserError
from research.common.interrupts import ended_by_interrupts
from research.common.processes import are_several, join, leave
from research.common.progress import LogHandler

log = logging.getLogger("research")
flags.disclaim_key_flags()  # `--help` of a command lists the flags that it defines by this module


def run(main: Callable[[list[str]], None], required: tuple[str, ...], positional: str = "") -> None:
    """Runs a command, after its flags were defined.

    Args:
      main: the command; its argument is the list of positional arguments. The docstring of its
        module is the beginning of `--help`.
      required: names of the flags that must be given.
      positional: name of the positional arguments, such as "FILE"; empty if there are none.
    """
    module = sys.modules[main.__module__]

    def parse_arguments(argv: list[str]) -> list[str]:
        if "--help" in argv or "-h" in argv:
            print(help_text(module, required))
            sys.exit(0)
        try:
            return parse(argv, module, required, positional)
        except UserError as error:
            _refuse(error)

    with ended_by_interrupts():
        app.run(lambda arguments: _guard(lambda: main(arguments)), flags_parser=parse_arguments)


def define_config_changes() -> None:
    """Defines `--config.KEY=VALUE`, whose values `config_changes` returns."""
    flags.DEFINE_multi_string(
        CHANGES,
        [],
        "Changes a key of the experiment, such as --config.batch_size=32; "
        "`python -m research.config FILE` lists the keys.",
    )


def config_changes() -> list[str]:
    """Returns the `KEY=VALUE` of each `--config.KEY=VALUE` on the command line."""
    return list(flags.FLAGS[CHANGES].value or ())


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


def _guard(main: Callable[[], None]) -> None:
    _quiet_logging()
    _keep_compilations()
    try:
        join()
        main()
        sys.stdout.flush()
    except UserError as error:
        _refuse(error)
    except Interrupted as end:
        if jax.process_index() == 0:
            log.warning("%s", end)
        sys.exit(end.exit_code)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _is_output_closed():
            os._exit(128 + signal.SIGPIPE)
        if _is_out_of_memory(error):
            reason = f" ({str(error).splitlines()[0]})" if str(error) else ""
            _refuse(UserError(f"out of memory{reason}; {SAVE_MEMORY}"))
        if not are_several():
            raise
        traceback.print_exc()
        leave(1)


def _is_output_closed() -> bool:
    """Returns whether the reader of the standard output has ended, as in `... | head`."""
    output = select.poll()
    output.register(sys.stdout, 0)
    return any(events & select.POLLERR for _, events in output.poll(0))


def _is_out_of_memory(error: Exception) -> bool:
    """Returns whether an array could not be allocated, on a device or by NumPy."""
    if isinstance(error, jax.errors.JaxRuntimeError):
        text = str(error).lower()
        return "resource_exhausted" in text and ("memory" in text or "allocat" in text)
    return isinstance(error, MemoryError)


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

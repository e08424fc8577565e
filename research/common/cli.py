"""What the verbs share: one-line errors with exit code 2, quiet logging, the compilation cache."""

import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import jax
from absl import app, flags
from absl import logging as absl_logging

from research.common.errors import UserError
from research.hardware.processes import are_several, join, leave
from research.training.interruption import EXIT_CODE, Interrupted

log = logging.getLogger("research")


def run(main: Callable[[list[str]], None], required: tuple[str, ...]) -> None:
    """Runs a verb whose flags have been defined; `main` gets the arguments that are no flags."""
    flags.mark_flags_as_required(required)
    app.run(lambda argv: _guard(lambda: main(argv[1:])), flags_parser=_parse)


def define_opening() -> None:
    """The flags of the verbs that open a trained run."""
    flags.DEFINE_string("workdir", None, "Folder of the run.")
    flags.DEFINE_integer("average", 1, "Take the mean of so many last checkpoints.", lower_bound=1)
    flags.DEFINE_multi_string(
        "change", [], "A change of the run's config, as task.decoding.beam=8; may be repeated."
    )


def _parse(argv: list[str]) -> list[str]:
    """Parses flags. What is wrong with them comes from many places, in as many exceptions."""
    if "--help" in argv or "-h" in argv:
        print(f"{sys.modules['__main__'].__doc__}\n{flags.FLAGS.main_module_help()}")
        sys.exit(0)
    try:
        return flags.FLAGS(argv)
    except (UserError, flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        _refuse(error)


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
        sys.exit(EXIT_CODE)
    except Exception:
        if not are_several():
            raise
        traceback.print_exc()
        leave(1)


def _refuse(error: BaseException) -> NoReturn:
    text = str(error).replace("\\n", " ").replace("\\'", "'")  # a KeyError's text is quoted
    print(f"error: {' '.join(text.split())}", file=sys.stderr)
    leave(2)


def _quiet_logging() -> None:
    absl_logging.set_verbosity(absl_logging.WARNING)  # Orbax tells every step of a save at INFO
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    ours = logging.getLogger("research")
    ours.handlers, ours.propagate = [handler], False
    ours.setLevel(logging.INFO)


def _keep_compilations() -> None:
    """XLA's persistent cache in the user's cache folder, unless JAX was told of another."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(cache / "polymath" / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

"""The ranges of the numbers in the config of a model."""

from typing import Any

from research.common.config import fields_of, type_name
from research.common.errors import ConfigError

_PACKAGE = __name__.partition(".")[0]
_SIZES = ("int", "tuple[int, ...]")
_RATES = ("dropout", "stochastic_depth")


def check_ranges(model: Any) -> None:
    """Checks the sizes and rates of one of the project's models; one of the user's own passes.

    Args:
      model: a Flax module whose fields are its config. Integers are sizes: at least 1, or at least
        0 where that is the default.

    Raises:
      ConfigError: a value is out of its range.
    """
    if type(model).__module__.partition(".")[0] != _PACKAGE:
        return  # an integer of the user's model may be an axis or an offset
    for name, field in fields_of(type(model)).items():
        value = getattr(model, name)
        if type_name(field.type) in _SIZES:
            least = 0 if field.default == 0 else 1
            if min(value if isinstance(value, tuple) else (value,), default=least) < least:
                raise ConfigError(name, f"invalid value {value}: expected at least {least}")
        if name in _RATES and not 0 <= value < 1:
            raise ConfigError(name, f"invalid rate {value}: expected a number in [0, 1)")

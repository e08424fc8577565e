"""Values as short texts."""

_MAX_VALUE = 200  # maximum length of a config value, in characters


def duration(seconds: float) -> str:
    """Returns a duration such as "12.3 s", "3 min 23 s" or "5 h 12 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    return f"{hours} h {left} min" if hours else f"{minutes} min {rest} s"


def shorten(value: str) -> str:
    """Truncates long values, such as a vocabulary or a language model."""
    if len(value) <= _MAX_VALUE:
        return value
    return f"{value[:_MAX_VALUE]}... ({len(value):,} characters)"

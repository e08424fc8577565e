"""Values as short texts."""

_MAX_VALUE = 200  # maximum length of a config value, in characters


def duration(seconds: float) -> str:
    """Formats a time in the largest unit of which it has at least two, such as "3.4 min"."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if round(seconds / size, 1) >= 2:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.1f} s"


def shorten(value: str) -> str:
    """Truncates long values, such as a vocabulary or a language model."""
    if len(value) <= _MAX_VALUE:
        return value
    return f"{value[:_MAX_VALUE]}... ({len(value):,} characters)"

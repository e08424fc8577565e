"""Splits of a data set: hold-outs, missing splits, and examples that two splits share."""

import hashlib
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from research.common.errors import ConfigError, UserError
from research.common.progress import activity

SPLITS = ("train", "validation", "test")
Content = bytes | str | Path
"""Content that identifies an example: its bytes, its text, or the path of its file."""

_SEED = 0  # of all hold-outs, independent of the seed of a run
_NAMED = 5  # number of duplicates that a warning names
_SAMPLE = 4096  # bytes that are hashed at the start, the middle and the end of a large file
MAX_FILES = 200_000  # maximum number of files to compare; more would delay the start by minutes
log = logging.getLogger(__name__)


@cache  # once, as a run opens some splits several times
def warn_once(message: str) -> None:
    """Logs a warning once per process."""
    log.warning("%s", message)


class HoldOut(NamedTuple):
    """Positions of the examples that are kept in a split, and of those that are held out."""

    kept: np.ndarray  # [kept] int64
    held_out: np.ndarray  # [held out] int64


def check_fraction(key: str, fraction: float) -> None:
    """Checks the fraction of a hold-out.

    Raises:
      ConfigError: the fraction is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise ConfigError(key, f"invalid fraction {fraction}: expected a number between 0 and 1")


def hold_out_random(count: int, fraction: float, key: str = "validation_fraction") -> HoldOut:
    """Holds out a random fraction of `count` examples, at least one; both parts ascend.

    Args:
      count: number of examples.
      fraction: to hold out, between 0 and 1.
      key: config key of the fraction, for error messages.

    Raises:
      ConfigError: no example would be kept.
    """
    number = _number(count, fraction, key, "examples")
    order = np.random.default_rng(_SEED).permutation(count)
    return HoldOut(np.sort(order[number:]), np.sort(order[:number]))


def hold_out_groups(
    groups: Sequence[str], fraction: float, key: str = "validation_fraction"
) -> HoldOut:
    """Holds out all examples of a random fraction of the groups, at least one group.

    Args:
      groups: the group of each example, such as its speaker.
      fraction: of the groups to hold out, between 0 and 1.
      key: config key of the fraction, for error messages.

    Raises:
      ConfigError: no group would be kept.
    """
    names = sorted(set(groups))
    number = _number(len(names), fraction, key, "groups")
    order = np.random.default_rng(_SEED).permutation(len(names))
    chosen = {names[i] for i in order[:number]}
    is_held_out = np.array([group in chosen for group in groups], bool)
    return HoldOut(np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out))


def hold_out_stratified(
    labels: np.ndarray, fraction: float, key: str = "validation_fraction"
) -> HoldOut:
    """Holds out a random fraction of the examples of every class; both parts are shuffled.

    Args:
      labels: class of each example, [examples] int.
      fraction: to hold out, between 0 and 1.
      key: config key of the fraction, for error messages.

    Raises:
      ConfigError: a class has too few examples.
    """
    from sklearn.model_selection import train_test_split  # takes a second to import

    try:
        kept, held_out = train_test_split(
            np.arange(len(labels)), test_size=fraction, stratify=labels, random_state=_SEED
        )
    except ValueError as error:
        problem = f"cannot hold out {fraction:g} of {len(labels)} examples: {error}"
        raise ConfigError(key, problem) from None
    return HoldOut(kept, held_out)


def hold_out_last(count: int, fraction: float, key: str = "validation_fraction") -> HoldOut:
    """Holds out the last examples: a fraction of `count`, rounded up.

    Raises:
      ConfigError: no example would be kept.
    """
    number = int(np.ceil(count * fraction))
    if number >= count:
        raise _too_few(key, fraction, count, "examples")
    return HoldOut(np.arange(count - number), np.arange(count - number, count))


def _number(count: int, fraction: float, key: str, noun: str) -> int:
    number = max(1, round(count * fraction))
    if number >= count:
        raise _too_few(key, fraction, count, noun)
    return number


def _too_few(key: str, fraction: float, count: int, noun: str) -> ConfigError:
    problem = f"cannot hold out {fraction:g} of {count} {noun}: none would remain"
    return ConfigError(key, f"{problem}; provide more, or a split of its own")


def missing_split(split: str, problem: str, key: str | None = None) -> ConfigError:
    """Returns the error for a split that a source does not have.

    Args:
      split: "train", "validation" or "test".
      problem: the reason and the remedy.
      key: config key that selects the split; None if it has the name of the split.
    """
    return ConfigError(key or split, f"no {split} split: {problem}")


def fall_back_to_validation(split: str, has_test: bool, source: str) -> str:
    """Returns the split to open: "validation" instead of a missing test split, with a warning.

    Args:
      split: the requested split.
      has_test: whether the source has a test split.
      source: name of the source in the warning, such as its path.
    """
    if split != "test" or has_test:
        return split
    warn_once(f"no test split: {source} has none; the validation split is used instead")
    return "validation"


def split_label(split: str, opened: str) -> str:
    """Returns the name of a split for its scores; where another split replaces it, both names.

    Args:
      split: the requested split.
      opened: the split whose examples were scored, `Task.opened_split(split)`.
    """
    return split if opened == split else f"{split} (the {opened} split)"


class Source(Protocol):
    """A source that can identify its examples."""

    def contents(self, split: str) -> Iterable[tuple[str, Content]]:
        """Returns the name and the content of every example of a split."""


@cache  # once, as a run opens its training split several times
def check_duplicates(source: Source, held_out: tuple[str, ...] = ("validation", "test")) -> None:
    """Warns of examples of held-out splits whose content is in the training split too.

    Args:
      source: a hashable source.
      held_out: the splits to compare with "train".
    """
    try:
        with activity("comparing the splits"):
            contents = {split: source.contents(split) for split in held_out}
            shared = find_duplicates(source.contents("train"), contents)
    except UserError:
        return  # opening that split raises the same error
    for split, pairs in shared.items():
        if pairs:
            named = ", ".join(f"{name} = {original}" for name, original in pairs[:_NAMED])
            plural = len(pairs) > 1
            examples = f"{len(pairs)} {split} {'examples are' if plural else 'example is'}"
            more = ", ..." if len(pairs) > _NAMED else ""
            warn_once(f"{examples} in the training split too: {named}{more}; remove the duplicates")


def find_duplicates(
    train: Iterable[tuple[str, Content]], held_out: Mapping[str, Iterable[tuple[str, Content]]]
) -> dict[str, list[tuple[str, str]]]:
    """Finds the held-out examples whose content is in the training split.

    Args:
      train: name and content of each training example. It is iterated once, and only the hashes of
        the held-out examples are kept, so it may be far larger than memory.
      held_out: name and content of each example, by split.

    Returns:
      the name of each duplicate with the name of its first occurrence in training, by split.
    """
    examples = [
        (split, name, digest)
        for split, contents in held_out.items()
        for name, digest in _digests(contents)
    ]
    wanted, sizes = {digest for *_, digest in examples}, {digest.size for *_, digest in examples}
    originals: dict[_Digest, str] = {}
    for name, digest in _digests(train, sizes):
        if digest in wanted:
            originals.setdefault(digest, name)
    shared: dict[str, list[tuple[str, str]]] = {split: [] for split in held_out}
    for split, name, digest in examples:
        if digest in originals:
            shared[split].append((name, originals[digest]))
    return shared


class _Digest(NamedTuple):
    size: int  # in bytes
    hash: bytes  # of all bytes; for a large file, of those at its start, middle and end


def _digests(
    contents: Iterable[tuple[str, Content]], sizes: Collection[int] | None = None
) -> Iterator[tuple[str, _Digest]]:
    """Yields the name and the digest of each readable example, or of those of the given sizes."""
    files: list[tuple[str, Path]] = []
    for name, content in contents:
        if isinstance(content, Path):
            files.append((name, content))
            continue
        data = content.encode() if isinstance(content, str) else content
        if sizes is None or len(data) in sizes:
            yield name, _Digest(len(data), _hash(data))
    if len(files) > MAX_FILES:
        log.info("%d files are not compared for duplicates: more than %d", len(files), MAX_FILES)
        return
    with ThreadPoolExecutor() as pool:  # cold disks and networks take a millisecond per file
        digests = pool.map(partial(_file_digest, sizes=sizes), [path for _, path in files])
        for (name, _), digest in zip(files, digests, strict=True):
            if digest is not None:
                yield name, digest


def _file_digest(path: Path, sizes: Collection[int] | None) -> _Digest | None:
    try:
        size = path.stat().st_size
        if sizes is not None and size not in sizes:
            return None
        with path.open("rb") as file:
            if size <= 3 * _SAMPLE:
                return _Digest(size, _hash(file.read()))
            parts = []
            for offset in (0, (size - _SAMPLE) // 2, size - _SAMPLE):
                file.seek(offset)
                parts.append(file.read(_SAMPLE))
    except OSError:
        return None
    return _Digest(size, _hash(b"".join(parts)))


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()

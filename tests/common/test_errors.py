import pytest

from research.common.errors import ConfigError, UserError, within


def test_within_prefixes_the_key_of_a_config_error():
    with pytest.raises(ConfigError) as error, within("task"), within("source"):
        raise ConfigError("path", "missing folder")
    assert (error.value.key, error.value.problem) == ("task.source.path", "missing folder")
    assert str(error.value) == "config.task.source.path: missing folder"


def test_within_does_not_change_other_errors():
    with pytest.raises(UserError, match="no such file"), within("source"):
        raise UserError("no such file")

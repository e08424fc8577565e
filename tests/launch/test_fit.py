"""The launcher compiles the training step before it creates machines."""

import json

import pytest

from launch.gcloud import Completed
from launch.tpu import main
from tests.launch.schedules import SimulatedHost
from tests.launch.test_commands import RUN, assert_refused

pytestmark = pytest.mark.usefixtures("gcloud", "tree")
FITS = {"fits": True, "step_seconds": 0.1, "mfu": 0.25}
LARGE = {"fits": False, "needed_bytes": 20 * 2**30, "hbm_bytes": 15.75 * 2**30}


def launch(world, planned, *flags):
    host = SimulatedHost(world)
    host.planned = planned
    return main([*RUN[:2], *flags, *RUN[2:]], host), host.asked


def test_a_step_that_does_not_fit_is_refused_with_the_remedy(world, capsys):
    code, _ = launch(world, Completed(0, json.dumps(LARGE), ""))
    message = "does not fit v5litepod-16: 20.0 GiB of 15.8 GiB per device; `make plan`"
    assert_refused(world, capsys, code, message)


def test_a_config_that_is_invalid_for_the_slice_is_refused(world, capsys):
    error = "error: config.batch_size: 60 is not divisible by 16"
    code, _ = launch(world, Completed(2, "", f"assumed config.x\n{error}\n"))
    assert_refused(world, capsys, code, "config.batch_size: 60 is not divisible by 16")


@pytest.mark.parametrize(
    ("planned", "says"),
    [
        (Completed(0, json.dumps(FITS), ""), "100.0 ms per step, 25 % MFU"),
        (Completed(2, "", "error: missing package libtpu\n"), "not predicted: missing package"),
        (Completed(2, "", "error: the TPU compiler failed: x\n"), "not predicted: the TPU"),
        (Completed(127, "", "env: no such file"), "not predicted: exit code 127"),
        (Completed(124, "", "timed out after 1800 s"), "not predicted: exit code 124"),
    ],
)
def test_a_run_starts_if_it_fits_or_is_not_known_to_be_too_large(world, capsys, planned, says):
    code, asked = launch(world, planned)
    assert code == 0 and says in capsys.readouterr().out
    (command,) = asked
    assert "--slice=v5litepod-16" in command
    assert any(text.startswith("--config=/") for text in command)
    assert not any(text.startswith("--workdir") for text in command)


def test_a_flag_leaves_the_prediction_out(world, capsys):
    code, asked = launch(world, Completed(0, json.dumps(LARGE), ""), "--no-plan")
    assert (code, asked) == (0, [])

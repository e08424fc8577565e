"""The command line, on the fake cloud with a virtual clock."""

import json

import pytest

from launch.gcloud import LocalHost
from launch.tpu import main
from tests.launch.schedules import LaptopDied, SimulatedHost

MACHINES = ["--accelerator=v5litepod-16", "--zone=us-central1-a"]
TRAINING = ["--", "--config=experiments/mine.py", "--workdir=gs://bucket/run"]
RUN = ["run", "job", *MACHINES, *TRAINING]

pytestmark = pytest.mark.usefixtures("gcloud")


def launch(world, *argv):
    """The exit code of a command line."""
    return main(list(argv), SimulatedHost(world))


def created(world):
    """What was asked for."""
    return [call for call in world.cloud.calls if "create" in call]


def test_run_ends_with_nothing_left(world, tree, capsys):
    assert launch(world, *RUN) == 0
    told = capsys.readouterr().out
    assert "$19.20 an hour" in told and "at most $460.80 in 24 hours" in told
    assert "[3] step 200" in told
    assert "finished" in told and "about $" in told
    assert world.cloud.leaked() == []
    assert world.runs["gs://bucket/run"].finished


def test_json_is_a_value_on_each_line(world, tree, capsys):
    assert launch(world, *RUN[:2], "--json", *RUN[2:]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    events = [one["event"] for one in told if "event" in one]
    order = ["cost", "creating", "setup", "first step", "running"]
    assert [event for event in events if event in order] == order
    assert told[-1]["outcome"] == "finished" and told[-1]["dollars"] > 0


def test_a_dry_run_runs_nothing(world, tree, capsys):
    assert launch(world, *RUN[:2], "--dry-run", "--project=p", *RUN[2:]) == 0
    assert "queued-resources create job" in capsys.readouterr().out
    assert world.cloud.calls == []


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--accelerator=v5e-16"], "v5litepod-16"),
        (["--accelerator=v5litepod-17"], "1, 4, 8, 16"),
        (["--zone=us-central2-b"], "us-central1-a"),
        (["--slices=0"], "--slices"),
        (["--max-dollars=-1"], "--max-dollars"),
        (["--max-hours=0"], "--max-hours"),
        (["--max-hours=soon"], "--max-hours"),
        (["--colour=red"], "--colour"),
        (["--slices=2", "--direct"], "--direct"),
        (["--flex-start"], "--flex-start"),
        (["--accelerator=tpu7x-16", "--zone=us-central1-c", "--max-dollars=5"], "--max-hours"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_an_error_is_one_line_and_creates_nothing(world, tree, capsys, flags, says):
    try:
        code = launch(world, *RUN[:4], *flags, *TRAINING)
    except SystemExit as error:  # argparse
        code = error.code
    assert_refused(world, capsys, code, says)


def assert_refused(world, capsys, code, says):
    told = capsys.readouterr()
    assert code == 2
    assert told.err.startswith("error: ") and told.err.count("\n") == 1
    assert says in told.err
    assert created(world) == [] and world.cloud.leaked() == []


@pytest.mark.parametrize(
    ("training", "says"),
    [
        (["--config=experiments/other.py", "--workdir=gs://bucket/run"], "experiments/other.py"),
        (["--workdir=gs://bucket/run"], "--config"),
        (["--config=experiments/mine.py"], "--workdir"),
        (["--config=experiments/mine.py", "--workdir=runs/mine"], "gs://"),
        (["--config=experiments/mine.py", "--workdir=gs://elsewhere/run"], "buckets create"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_an_invalid_training_is_an_error(world, tree, capsys, training, says):
    code = launch(world, "run", "job", *MACHINES, "--", *training)
    assert_refused(world, capsys, code, says)


def test_without_gcloud(world, tree, capsys, gcloud):
    gcloud.unlink()
    code = main([*RUN[:2], "--project=twin", *RUN[2:]], LocalHost())
    assert_refused(world, capsys, code, "cloud.google.com/sdk")


def test_without_a_login(world, tree, capsys):
    world.cloud.account = None
    assert_refused(world, capsys, launch(world, *RUN), "gcloud auth login")


def test_without_a_project(world, tree, capsys):
    world.cloud.config["project"] = ""
    assert_refused(world, capsys, launch(world, *RUN), "gcloud config set project")


def test_without_the_api(world, tree, capsys):
    world.cloud.disabled.add("tpu")
    assert_refused(world, capsys, launch(world, *RUN), "gcloud services enable")


def test_a_bucket_that_must_not_be_written(world, tree, capsys):
    world.cloud.denied.add("storage cp")
    assert_refused(world, capsys, launch(world, *RUN), "roles/storage.objectUser")


def test_without_quota_nothing_is_left(world, tree, capsys):
    world.cloud.quota = 8
    assert launch(world, *RUN) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "quotas" in told
    assert world.cloud.leaked() == []


def test_a_name_that_is_taken(world, tree, capsys):
    assert launch(world, "create", "job", *MACHINES) == 0
    before, _ = len(created(world)), capsys.readouterr()
    assert launch(world, *RUN) == 2
    assert "attach job" in capsys.readouterr().err
    assert len(created(world)) == before


def test_uncommitted_changes_are_refused_or_stamped(world, tree, capsys):
    (tree / "experiments/mine.py").write_text("changed = 1")
    assert_refused(world, capsys, launch(world, *RUN), "--dirty")
    assert launch(world, *RUN[:2], "--dirty", *RUN[2:]) == 0


def test_by_hand(world, tree, capsys):
    """create, setup, start, status, logs, stop and delete do what `run` does."""
    there = ["job", "--zone=us-central1-a"]
    assert launch(world, "create", "job", *MACHINES) == 0
    world.clock.sleep(60)
    assert launch(world, "setup", *there, "--workdir=gs://bucket/run") == 0
    assert launch(world, "start", *there, *TRAINING) == 0
    world.clock.sleep(90)
    assert launch(world, "stop", *there) == 0
    capsys.readouterr()
    assert launch(world, "logs", *there) == 0
    assert "[0] step" in capsys.readouterr().out
    assert launch(world, "status", *there, "--json") == 0
    status = json.loads(capsys.readouterr().out)
    assert status["state"] == "ready" and status["workers"]["3"].startswith("stopped")
    assert launch(world, "delete", *there) == 0
    assert world.cloud.leaked() == []
    assert launch(world, "status", *there) == 2


def test_leaks_lists_billable_resources(world, tree, capsys):
    assert launch(world, "leaks") == 0
    world.cloud.disks["old"] = "us-central1-a"
    assert launch(world, "create", "job", *MACHINES) == 0
    capsys.readouterr()
    assert launch(world, "leaks", "--json") == 1
    found = {one["kind"]: one for one in json.loads(capsys.readouterr().out)}
    assert set(found) == {"node", "request", "disk"}
    assert found["node"]["dollars_per_hour"] == pytest.approx(19.2)
    assert launch(world, "list") == 0
    assert "old" not in capsys.readouterr().out


def test_attach_continues_after_the_launcher_was_killed(world, tree, capsys):
    local_host = SimulatedHost(world, dies_at=12)
    with pytest.raises(LaptopDied):
        main(RUN, local_host)
    assert world.cloud.leaked()
    assert launch(world, "attach", "job", "--zone=us-central1-a") == 0
    assert world.runs["gs://bucket/run"].finished
    assert world.cloud.leaked() == []

"""The commands on the workers, and their parsed replies."""

import dataclasses
import json
import os
import subprocess

import pytest

from launch.cloud import Resources, State
from launch.commands import cloud_of
from launch.gcloud import Completed, LocalHost
from launch.plan import Plan
from launch.workers import Reply, Workers, attempt_path, job, poll_command, start_command

PLAN = Plan(
    "run",
    "p",
    "us-central2-b",
    "v4-16",
    workdir="gs://bucket/run",
    arguments=("--config=a.py", "--config.note=it's $HOME"),
)
READY = Resources(State.READY)
RUNNING = {"rank": 0, "state": "running", "attempt": 1, "step": 7, "born": 5.5, "offset": 12}
REPLY = Reply("running", rank=0, step=7, born=5.5, offset=12)
NOISE = "Welcome to Ubuntu 22.04\n{ not a reply }\n\n** WARNING: connection is not post-quantum\n"


class Answers(LocalHost):
    """Workers that print what was written down; nothing: they cannot be reached."""

    def __init__(self, *printed):
        self._printed, self.ran = printed, []

    def run_parallel(self, commands, timeout):
        """The first worker is reached alone, the others after it."""
        self.ran.append(commands)
        printed = self._printed[:1] if len(self.ran) == 1 else self._printed[1:]
        reached, refused = (0, "Updating SSH keys...\n"), (255, "Permission denied (publickey).\n")
        ends = [(text, *(reached if text else refused)) for text in printed]
        return [Completed(code, text, stderr) for text, code, stderr in ends]


def heard(*printed):
    """The replies in what the workers print."""
    return Workers(cloud_of(PLAN), Answers(*printed)).poll(READY, {})


def line(**changes):
    return json.dumps(RUNNING | changes) + "\n"


@pytest.mark.parametrize("noise", ["", NOISE], ids=["alone", "after noise"])
def test_a_reply(noise):
    assert heard(noise + line()) == [REPLY]


def test_log_lines_follow_the_reply():
    """Also those that look like a reply; nothing is lost and nothing is added."""
    log = 'step 1\n\n  step 2\r\n{"rank": 1, "state": "failed"}\nunfinished'
    (reply,) = heard(NOISE + line() + log)
    assert reply.log == log
    assert (reply.rank, reply.state) == (0, "running")


def test_what_is_not_known_yet_is_left_open():
    open_ = line(rank=None, state="idle", attempt=None, step=0, born=None, offset=0, verdict=None)
    assert heard(open_) == [Reply("idle")]
    assert heard('{"state": "booting"}\n') == [Reply("booting")]


def test_a_verdict_and_words_of_a_newer_agent():
    verdict = {"outcome": "failed", "rank": 1, "cause": "exit code 1", "again": False}
    (reply,) = heard(line(state="failed", verdict=verdict, colour="red"))
    assert reply.state == "failed" and reply.verdict == verdict


@pytest.mark.parametrize(
    "text",
    ["", NOISE, line()[:-20], NOISE + line()[:10], line()[:-2] + "\nstep 1\n"],
    ids=["empty", "noise", "cut", "noise and cut", "cut before the log"],
)
def test_a_truncated_reply_is_none(text):
    assert heard(text) == []
    assert heard(text, line(rank=1)) == [dataclasses.replace(REPLY, rank=1)]


def test_replies_are_in_the_order_of_ranks():
    """The order in which machines are listed is not that of their ranks."""
    bare = '{"state": "setup"}\n'
    replies = heard(line(rank=2), line(rank=0), bare, line(rank=1))
    assert [reply.rank for reply in replies] == [-1, 0, 1, 2]


def test_errors_of_failed_workers_are_kept():
    local_host = Answers(line(), "")
    workers = Workers(cloud_of(PLAN), local_host)
    assert workers.poll(READY, {}) == [REPLY]
    assert workers.errors == "Permission denied (publickey)."
    assert [len(commands) for commands in local_host.ran] == [1, 1]


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """A folder in place of a worker, where `sudo` changes nothing."""
    root, programs = tmp_path / "root", tmp_path / "bin"
    for folder in (root, programs):
        folder.mkdir()
    (programs / "sudo").write_text('#!/bin/sh\n[ "$1" = -n ] && shift\nexec "$@"\n')
    (programs / "sudo").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("POLYMATH_ROOT", str(root))
    return root


def bash(command):
    """What a worker prints."""
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    return done.stdout


def polled(offsets=()):
    """The reply of a worker on which the command is really run."""
    (reply,) = heard(bash(poll_command(dict(offsets))))
    return reply


def agent(root):
    """An agent that prints what it is called with."""
    path = root / "code/launch/worker/agent.py"
    path.parent.mkdir(parents=True)
    path.write_text("import json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    (root / "ready").touch()


def test_a_machine_without_a_timer_is_booting(worker):
    assert polled() == Reply("booting")


def test_a_machine_that_is_being_set_up(worker):
    (worker / "deadman.json").write_text("{}")
    assert polled() == Reply("setup")


def test_a_failed_setup_reports_the_cause(worker):
    (worker / "deadman.json").write_text("{}")
    (worker / "broken").touch()
    lines = [f"line {number}\n" for number in range(99)] + ["uv: no space left on device\n"]
    (worker / "begin.log").write_text("".join(lines))
    assert polled() == Reply("broken", log="".join(lines[-30:]))


def test_a_machine_that_is_ready_asks_its_agent(worker):
    (worker / "deadman.json").write_text("{}")
    agent(worker)
    verb, offsets = json.loads(bash(poll_command({0: 12, 3: 0})))
    assert verb == "poll"
    assert json.loads(offsets.removeprefix("--offsets=")) == {"0": 12, "3": 0}


def test_the_job_comes_through_the_shell_as_it_is(worker):
    agent(worker)
    verb, given = json.loads(bash(start_command(PLAN)))
    assert verb == "start"
    found = json.loads(given.removeprefix("--job="))
    assert found == job(PLAN)
    train = ["-m", "research.train", *PLAN.arguments, "--workdir=gs://bucket/run"]
    assert found["arguments"] == train


def test_each_attempt_has_its_own_path():
    first, second = (attempt_path(plan, "result.json") for plan in (PLAN, PLAN.next_attempt(1.0)))
    assert first == "gs://bucket/run/logs/attempt-1/result.json"
    assert second == "gs://bucket/run/logs/attempt-2/result.json"

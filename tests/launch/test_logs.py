"""Causes of failures in the logs of real processes."""

import pytest

from launch.worker import logs

OWN = """\
Traceback (most recent call last):
  File "a.py", line 3, in load
    return table[name]
           ~~~~~^^^^^^
KeyError: 'speaker'
"""
ECHO = """\
Traceback (most recent call last):
  File "a.py", line 9, in main
    state = jax.block_until_ready(add(state))
ValueError: UNKNOWN: Gloo all-reduce failed: [external/gloo/gloo/transport/tcp/pair.cc:547] \
Connection closed by peer [127.0.0.1]:38805
"""
ECHO_OF_THE_SERVICE = """\
Traceback (most recent call last):
  File "xla_client.py", line 79, in make_cpu_client
    return _xla.get_tfrt_cpu_client(
jax.errors.JaxRuntimeError: UNAVAILABLE: recvmsg:Connection reset by peer
Additional GRPC error information from remote target coordination_service while calling /xla:
:UNKNOWN:Error received from peer  {grpc_status:14}

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "mesh.py", line 57, in build
    there = jax.devices()
RuntimeError: Unable to initialize backend 'cpu': UNAVAILABLE: recvmsg:Connection reset by peer
"""
OF_THE_RUNTIME = """\
E1123 02:39:55.823667   25699 coordination_service_agent.cc:289] Polled an error from coordination \
service (this can be an error from this or another task).
F1123 02:39:55.823737   25699 client.h:80] Terminating process because the JAX distributed service \
detected fatal errors. This most likely indicates that another task died.
"""
# Threads write at the same time; and JAX may exit before Python has printed everything.
MIXED = ECHO.replace("last):\n", "last):\n" + OF_THE_RUNTIME)
CUT = ECHO[: ECHO.index("ValueError")] + OF_THE_RUNTIME
SEVERAL_LINES = (
    OF_THE_RUNTIME
    + """\
Additional GRPC error information from remote target coordination_service while calling /xla:
:UNAVAILABLE:Stream removed (Socket closed)
=== Source Location Trace: ===
external/xla+/xla/pjrt/distributed/coordination/coordination_service_error_util.cc:64
"""
)
CUT_BY_SEVERAL_LINES = "Traceback (most recent call last):\n" + SEVERAL_LINES
ABORTED = """\
Fatal Python error: Aborted

Current thread 0x00007fef9cc09b80 (most recent call first):
  File "a.py", line 9 in main
"""
DUMP = """\
Thread 0x00007f0000000001 (most recent call first):
  File "threading.py", line 320 in wait

Current thread 0x00007f0000000002 (most recent call first):
  File "a.py", line 12 in read
  File "a.py", line 20 in <module>
"""


@pytest.mark.parametrize(
    "text",
    [
        ECHO,
        ECHO_OF_THE_SERVICE,
        OF_THE_RUNTIME + ABORTED,
        "error: no checkpoint\n" + ECHO,
        MIXED,
        CUT,
        CUT_BY_SEVERAL_LINES,
    ],
)
def test_a_message_about_another_process_is_a_secondary_failure(text):
    assert logs.first_cause("step 3\n" + text)[1]


@pytest.mark.parametrize(
    "text",
    [
        OWN,
        OWN + ECHO,
        ECHO + OWN,
        OWN + OF_THE_RUNTIME + ABORTED,
        "step 3\n" + OWN + DUMP,
        MIXED + OWN,
    ],
)
def test_the_first_own_traceback_is_the_cause(text):
    cause, secondary = logs.first_cause(text)
    assert not secondary
    assert cause.startswith(OWN.strip())


@pytest.mark.parametrize("line", ["Traceback (most recent call last):\n", "~~~~~^^^^^^\n"])
@pytest.mark.parametrize("log", [OF_THE_RUNTIME, SEVERAL_LINES])
def test_log_lines_within_a_traceback_do_not_end_it(line, log):
    assert logs.first_cause(OWN.replace(line, line + log)) == (OWN.strip(), False)


def test_an_error_of_a_file_system_is_its_own():
    own = OWN.replace("KeyError: 'speaker'", "OSError: gs://bucket: Connection reset by peer")
    assert logs.first_cause(own) == (own.strip(), False)


def test_chained_exceptions_follow_their_cause():
    then = "\nDuring handling of the above exception, another exception occurred:\n\n" + ECHO
    cause, secondary = logs.first_cause("step 3\n" + OWN + then)
    assert (cause, secondary) == ((OWN + then).strip(), False)


def test_an_ignored_exception_is_no_cause():
    ignored = "Exception ignored in: <function f>\n" + OWN.replace("KeyError", "TypeError")
    assert logs.first_cause(ignored + OWN)[0] == OWN.strip()


def test_an_error_of_the_user_is_its_line():
    assert logs.first_cause("loading\nerror: config.seed: is -1; mend it\n") == (
        "error: config.seed: is -1; mend it",
        False,
    )


def test_without_a_traceback_the_last_words_are_shown():
    text = "".join(f"step {i}\n" for i in range(30))
    cause, secondary = logs.first_cause(text)
    assert cause.splitlines() == [f"step {i}" for i in range(20, 30)]
    assert not secondary
    assert logs.first_cause("") == ("", False)


def test_of_a_crash_the_stack_is_shown():
    crash = ABORTED.replace("Aborted", "Segmentation fault")
    assert logs.first_cause("step 3\n" + crash) == (crash.strip(), False)


def test_of_two_dumps_the_last_is_taken_whole():
    assert logs.stacks(DUMP + "step 4\n" + DUMP.replace("line 12", "line 13")) == DUMP.replace(
        "line 12", "line 13"
    ).rstrip("\n")


def test_a_long_traceback_keeps_its_beginning_and_its_end():
    long = OWN.replace("    return", "  File\n" * 500 + "    return")
    cause, _ = logs.first_cause(long)
    assert len(cause.splitlines()) < 70
    assert cause.startswith("Traceback")
    assert cause.endswith("KeyError: 'speaker'")


def test_logs_of_earlier_attempts_are_kept(tmp_path):
    log = tmp_path / "training.log"
    for attempt in range(8):
        logs.rotate(log)
        log.write_text(str(attempt))
    kept = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert kept == {"training.log": "7"} | {f"training.log.{i}": str(7 - i) for i in range(1, 6)}

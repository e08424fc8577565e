"""The grammar rejects the command lines that gcloud rejects."""

import os
import shutil
import subprocess

import pytest

from tests.launch.grammar import GRAMMAR, check

TPUS = "gcloud compute tpus"
QUEUED = f"{TPUS} queued-resources create q --zone=z --runtime-version=r"
NODE = f"{TPUS} tpu-vm create n --zone=z --version=r"
TEMPLATE = "gcloud compute instance-templates create t --machine-type=tpu7x-standard-4t"
GROUP = "gcloud compute instance-groups managed create g --size=2 --template=t --zone=z"

RIGHT = [
    f"{QUEUED} --accelerator-type=v4-8 --node-id=n --spot --metadata-from-file=startup-script=f",
    f"{QUEUED} --accelerator-type v4-8 --node-count=2 --node-prefix=n --labels=a=b --async",
    f"{QUEUED} --type=v4 --topology=2x2x4 --node-id=n",
    f"{NODE} --accelerator-type=v5litepod-16 --reserved --data-disk=source=a --data-disk=source=b",
    f"{TPUS} queued-resources describe q --zone=z --format=json --project=p",
    f"{TPUS} queued-resources delete q --zone=z --force --quiet --async",
    f"{TPUS} queued-resources ssh q --zone=z --command=ls --tunnel-through-iap --worker=all",
    f"{TPUS} tpu-vm ssh me@n --zone=z --worker=3 --command=ls",
    f"{TPUS} tpu-vm ssh n --zone=z -- -L 80:localhost:80",
    f"{TPUS} tpu-vm scp --recurse a b n:c --zone=z --worker=all",
    f"{TPUS} tpu-vm list --zone=- --filter=state:READY -q",
    f"{TEMPLATE} --provisioning-model=SPOT --instance-termination-action=DELETE --no-address",
    f"{TEMPLATE} --image-family=f --image-project=p --maintenance-policy=TERMINATE",
    f"{GROUP} --default-action-on-vm-failure=do-nothing",
    "gcloud compute resource-policies create workload-policy w --type=high-throughput --region=r",
    "gcloud compute ssh vm --zone=z --tunnel-through-iap --command=ls",
    "gcloud storage cp a b gs://c --recursive",
    "gcloud storage ls gs://c",
    "gcloud config get project",
]
# Not in the version of gcloud that may lie on this machine.
LATER = [
    f"{GROUP} --target-size-policy-mode=bulk --workload-policy=w",
    f"{TEMPLATE} --provisioning-model=FLEX_START --max-run-duration=8h",
    "gcloud compute resource-policies create workload-policy w --type=high-throughput "
    "--accelerator-topology=2x2x2 --accelerator-topology-mode=auto-connect",
]
TWICE = "is given twice"
WRONG = [
    (f"{QUEUED} --accelerator-type=v4-8 --node-id=n --version=r", "unknown flag --version"),
    (f"{QUEUED} --accelerator-type=v4-8", "missing one of"),
    (f"{QUEUED} --accelerator-type=v4-8 --node-id=n --node-count=2", "at most one of"),
    (f"{QUEUED} --accelerator-type=v4-8 --node-prefix=n", "missing --node-count"),
    (f"{QUEUED} --node-id=n", "missing one of (--accelerator-type)"),
    (f"{QUEUED} --node-id=n --type=v5p --topology=2x2x4", "--type=v5p is none of v2, v3, v4"),
    (f"{QUEUED} --node-id=n --type=v4", "missing --topology"),
    (f"{QUEUED} --accelerator-type=v4-8 --node-count=two", "--node-count=two is no number"),
    (f"{QUEUED} --accelerator-type=v4-8 --node-id=n --spot=true", "--spot takes no value"),
    (f"{QUEUED} --accelerator-type=v4-8 --node-id", "--node-id without its value"),
    (f"{QUEUED} --accelerator-type --node-id=n", "--accelerator-type without its value"),
    (f"{QUEUED} other --accelerator-type=v4-8 --node-id=n", "too many arguments: other"),
    (f"{QUEUED} --accelerator-type=v4-8 --node-id=n --metadata=a=b --metadata=c=d", TWICE),
    (f"{NODE} --accelerator-type=v4-8 --runtime-version=r", "unknown flag --runtime-version"),
    (f"{TPUS} tpu-vm create n --zone=z --accelerator-type=v4-8", "missing --version"),
    (f"{TPUS} tpu-vm ssh n --zone=z --tunnel-through-iap", "unknown flag --tunnel-through-iap"),
    (f"{TPUS} tpu-vm ssh n --zone=z --batch-size=4", "unknown flag --batch-size"),
    (f"{TPUS} queued-resources ssh q --zone=z --command=a --internal-ip --tunnel-through-iap",
     "at most one of --internal-ip | --tunnel-through-iap"),
    (f"{TPUS} queued-resources describe --zone=z", "missing one of its arguments"),
    (f"{TPUS} queued-resource list", "unknown command"),
    (f"{TEMPLATE} --maintenance-policy=MOVE", "is none of MIGRATE, TERMINATE"),
    (f"{TEMPLATE} --no-address --address=1.2.3.4", "at most one of"),
    (f"{GROUP} --region=r", "at most one of --region | --zone"),
    (f"{GROUP} --worker=all", "unknown flag --worker"),
    ("gcloud compute instance-groups managed create g --zone=z --size=2", "missing --template"),
    ("gsutil cp a b", "is not gcloud"),
]  # fmt: skip


@pytest.mark.parametrize("line", RIGHT + LATER)
def test_a_right_line_passes(line):
    assert check(line.split()) == []


@pytest.mark.parametrize(("line", "says"), WRONG)
def test_a_wrong_line_is_refused(line, says):
    assert says in "; ".join(check(line.split()))


def test_every_command_names_its_page():
    for name, command in GRAMMAR["commands"].items():
        assert command["source"].endswith(name.replace(" ", "/"))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("gcloud"), reason="gcloud is not installed")
def test_gcloud_itself_agrees(tmp_path):
    """It reads the command line before it finds that nobody is logged in."""
    quiet = {"CLOUDSDK_CONFIG": str(tmp_path), "CLOUDSDK_CORE_DISABLE_PROMPTS": "1"}
    quiet |= {"CLOUDSDK_CORE_PROJECT": "p", "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "1"}
    # No look for credentials on the network, and no SSH keys made in the user's home.
    quiet |= {"CLOUDSDK_CORE_CHECK_GCE_METADATA": "0", "HOME": str(tmp_path)}
    # What a later version takes or refuses is not asked. Of a flag given twice gcloud takes the
    # last, which is never what was meant.
    wrong = [line for line, says in WRONG if line.startswith("gcloud") and says != TWICE]
    differs = []
    for line in RIGHT + wrong:
        done = subprocess.run(
            line.split(), env=os.environ | quiet, capture_output=True, text=True, timeout=120
        )
        if (done.returncode == 2) != bool(check(line.split())):
            differs.append((line, done.returncode, done.stderr[-300:]))
    assert not differs

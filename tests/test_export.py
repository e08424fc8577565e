import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import export

from research.common.errors import UserError
from research.evaluate import evaluate_run
from research.export import export_run
from research.exporting import hub
from research.tasks.image_classification.models import CNN
from research.training.initialize import Initialize, by_path
from research.training.loop import Trainer
from research.training.run import open_run
from research.weights.safetensors import read_safetensors
from tests.test_commands import cache, quick_call  # noqa: F401


@pytest.fixture(scope="module")
def trained(with_model):
    """An experiment with batch statistics, whose evaluation uses averaged parameters."""
    return dataclasses.replace(with_model(CNN(widths=(4, 8))), ema_decay=0.9, keep_checkpoints=2)


@pytest.fixture(scope="module")
def workdir(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "digits"
    Trainer(trained, folder).train()
    evaluate_run(open_run(folder), "test")
    return folder


def arrays_of(run):
    return by_path(jax.device_get({"params": run.state.params, **run.state.variables}))


def assert_same_bits(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].tobytes() == array.tobytes(), name


def exported(workdir, format, output, *changes, average=1, license=None):
    export_run(open_run(workdir, changes, average), format, output, average, license)
    return (output / "README.md").read_text()


@pytest.mark.slow
def test_exported_parameters_initialize_another_run_bit_for_bit(trained, workdir, tmp_path):
    exported(workdir, "safetensors", tmp_path / "a")
    expected = arrays_of(open_run(workdir))
    assert {"params/head/kernel", "batch_stats/BatchNorm_0/mean"} < set(expected)
    source = Initialize(source=str(tmp_path / "a" / "model.safetensors"))
    trainer = Trainer(dataclasses.replace(trained, initialize=source), tmp_path / "b")
    state = trainer.program.initialize(trainer.loaded)
    assert_same_bits(arrays_of(dataclasses.replace(open_run(workdir), state=state)), expected)


@pytest.mark.slow
def test_a_network_of_other_collections_is_read_back(experiment, tmp_path):
    """Not every framework stores batch statistics as `batch_stats`."""
    from research.training import initialize
    from research.weights.safetensors import save_safetensors

    tree = {"params": {"a": np.ones(2, np.float32)}, "norm": {"mean": np.ones(3, np.float32)}}
    save_safetensors(tmp_path / "x.safetensors", by_path(tree))
    config = Initialize(source=str(tmp_path / "x.safetensors"))
    loaded, _ = initialize.load(config, experiment.task, tree, read_run=None)
    assert set(loaded) == {"params/a", "norm/mean"}


@pytest.mark.slow
def test_an_export_of_averaged_checkpoints_says_so(workdir, tmp_path):
    card = exported(workdir, "safetensors", tmp_path / "a", average=2)
    expected = arrays_of(open_run(workdir, average=2))
    assert_same_bits(read_safetensors(tmp_path / "a" / "model.safetensors"), expected)
    assert "| average | mean of the last 2 checkpoints |" in card
    assert "differs from it and was not evaluated" in card


@pytest.mark.slow
def test_the_card_has_the_scores_as_measured(workdir, tmp_path):
    card = exported(workdir, "safetensors", tmp_path / "a", license="apache-2.0")
    record = json.loads((workdir / "evaluation_test.json").read_text())
    assert f"| test | accuracy | {record['metrics']['accuracy']:.4f} | 24 |" in card
    assert f"| test | examples | {record['metrics']['examples']} | 24 |" in card
    assert "was not evaluated" not in card
    parameters = sum(x.size for x in jax.tree.leaves(open_run(workdir).state.params))
    assert f"| parameters | {parameters:,} |" in card
    assert "`ImageClassification`: " in card and "`Digits`: " in card and "`CNN`: " in card
    head = card.split("---\n")[1].splitlines()
    assert head[0] == "license: apache-2.0" and "- image-classification" in head
    assert card.endswith("## Licence\napache-2.0\n")


@pytest.mark.slow
def test_a_card_without_facts_says_so(workdir, tmp_path):
    """A run that is still training has neither a summary nor, here, an evaluation."""
    copy = tmp_path / "run"
    copy.mkdir()
    (copy / "config.json").write_text((workdir / "config.json").read_text())
    (copy / "checkpoints").symlink_to(workdir / "checkpoints")
    card = exported(copy, "safetensors", tmp_path / "a")
    for text in ("The run was not evaluated.", "has not finished", "## Licence\nNot stated"):
        assert text in card
    assert "license" not in card


@pytest.mark.slow
def test_the_command_that_trained_the_run_is_in_the_card(workdir, tmp_path):
    copy = tmp_path / "run"
    copy.mkdir()
    for name in ("config.json", "evaluation_test.json"):
        (copy / name).write_text((workdir / name).read_text())
    (copy / "checkpoints").symlink_to(workdir / "checkpoints")
    summary = {"command": "python -m research.train X", "hardware": "1 x cpu", "jax": "0.12"}
    summary |= {"seconds": 1.6, "compile_seconds": 3.2}
    (copy / "summary.json").write_text(json.dumps(summary))
    card = exported(copy, "safetensors", tmp_path / "a")
    assert "```\npython -m research.train X\n```" in card
    assert "| duration | 1.6 s, and 3.2 s of compilation |" in card
    (copy / "evaluation_test.json").write_text("{}")
    with pytest.raises(UserError, match=r"evaluation_test\.json: expected metrics and a step"):
        exported(copy, "safetensors", tmp_path / "b")
    assert not (tmp_path / "b").exists() and not (tmp_path / "unfinished_b").exists()


WITHOUT_THE_PROJECT = """
import sys
for name in ("research", "flax", "optax", "orbax"):
    sys.modules[name] = None  # importing it raises an error
{snippet}
np.savez("predictions.npz", **predict({{"image": np.load("images.npy")}}))
"""


@pytest.mark.slow
def test_a_program_runs_without_the_project(workdir, tmp_path):
    output = tmp_path / "a"
    card = exported(workdir, "stablehlo", output)
    images = np.random.default_rng(0).integers(256, size=(3, 8, 8, 1), dtype=np.uint8)
    np.save(output / "images.npy", images)
    code = WITHOUT_THE_PROJECT.format(snippet=re.search(r"```python\n(.*?)```", card, re.S)[1])
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=output, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "probability float32 (2, 10)\n"
    run = open_run(workdir)
    batch = {"image": np.concatenate([images] * 8)}  # divisible by the devices
    expected = run.program.predict_step(run.state, jax.device_put(batch))["probability"][:3]
    found = np.load(output / "predictions.npz")["probability"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_program_computes_in_bfloat16(workdir, tmp_path, standard_promotion):
    card = exported(workdir, "stablehlo", tmp_path / "a", "task.dtype=bfloat16")
    assert "| changed config | `dtype: float32 -> bfloat16` |" in card
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config["task"]["dtype"] == "bfloat16"
    assert config["batch_size"] == 64
    run = open_run(workdir, ["task.dtype=bfloat16"])
    images = np.random.default_rng(0).integers(256, size=(8, 8, 8, 1), dtype=np.uint8)
    expected = run.program.predict_step(run.state, jax.device_put({"image": images}))
    program = export.deserialize((tmp_path / "a" / "model.stablehlo").read_bytes())
    found = program.call({"image": images})
    np.testing.assert_allclose(found["probability"], expected["probability"], rtol=0, atol=1e-5)
    exact = open_run(workdir)
    exact = exact.program.predict_step(exact.state, jax.device_put({"image": images}))
    assert not np.allclose(found["probability"], exact["probability"], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_command_exports(workdir, tmp_path):
    arguments = (f"--workdir={workdir}", "--format=safetensors", f"--output={tmp_path / 'a'}")
    done = quick_call("export", *arguments, "--license=mit")
    assert (done.returncode, done.stdout) == (0, f"exported to {tmp_path / 'a'}\n")
    names = {file.name for file in (tmp_path / "a").iterdir()}
    assert names == {"model.safetensors", "config.json", "README.md"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format": "pickle"}, "--format=pickle"),
        ({"output": "FULL"}, "exists and is not an empty folder; remove it or choose another"),
        ({"output": "gs://bucket/a"}, "invalid output gs://bucket/a: expected a folder on disk"),
        ({"workdir": "EMPTY"}, "missing run in"),
        ({"workdir": "UNTRAINED"}, "missing checkpoint in"),
        ({"average": "9"}, "cannot average 9 checkpoints"),
        ({"dtype": "bfloat16"}, "invalid flag --dtype=bfloat16"),
        ({"format": "stablehlo", "dtype": "float16"}, "--dtype=float16"),
        ({"license": "my own"}, "invalid license 'my own'"),
        ({"push": "owner/name"}, "invalid target 'owner/name': expected hf:OWNER/NAME"),
        ({"push": "hf:owner/name"}, "missing token; `hf auth login`, or set HF_TOKEN"),
    ],
)
def test_invalid_flags_are_refused_and_nothing_is_written(
    workdir, tmp_path, monkeypatch, changed, message
):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "EMPTY"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("EMPTY", "FULL", "UNTRAINED"):
        (tmp_path / name).mkdir()
    (tmp_path / "FULL" / "x").touch()
    (tmp_path / "UNTRAINED" / "config.json").write_text((workdir / "config.json").read_text())
    before = sorted(tmp_path.rglob("*"))
    flags = {"workdir": workdir, "format": "safetensors", "output": "new/folder"} | changed
    for name in ("workdir", "output"):
        if not str(flags[name]).startswith("gs:"):
            flags[name] = tmp_path / flags[name]
    done = quick_call("export", *(f"--{name}={value}" for name, value in flags.items()))
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr and len(done.stderr.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture
def uploads(monkeypatch):
    """The Hub without network; records what it is asked for."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    calls = []

    class FakeApi:
        def create_repo(self, repository, **options):
            calls.append(("create", repository, options))
            return f"https://huggingface.co/{repository}"

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            calls.append(("upload", repo_id, sorted(p.name for p in Path(folder_path).iterdir())))

    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "token")
    return calls


def test_a_folder_is_pushed_to_the_hub(uploads, tmp_path):
    (tmp_path / "README.md").touch()
    (tmp_path / "model.safetensors").touch()
    repository = hub.check_push("hf:owner/name")
    assert hub.push(tmp_path, repository) == "https://huggingface.co/owner/name"
    assert uploads == [
        ("create", "owner/name", {"private": True, "exist_ok": True}),
        ("upload", "owner/name", ["README.md", "model.safetensors"]),
    ]


def test_a_failed_push_is_one_line(uploads, tmp_path, monkeypatch):
    import huggingface_hub

    def fail(*_, **options):
        raise ConnectionResetError("server\nsecond line")

    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", fail)
    with pytest.raises(UserError) as error:
        hub.push(tmp_path, "owner/name")
    assert "hf:owner/name: server; `hf upload owner/name" in str(error.value)


def test_a_push_needs_the_package_of_the_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r'pip install -e "\.\[hub\]"'):
        hub.check_push("hf:owner/name")

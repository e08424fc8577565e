"""Mistakes on the command line: each gets one line that names the remedy, and writes nothing."""

import importlib
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from launch import local_slice
from research import __main__ as polymath
from research.common.config import from_config_dict, to_config_dict
from research.common.files import read_json, save_json
from research.training.experiment import Experiment
from tests.make import make

SAVED = Path(__file__).parent / "training" / "saved_run"

# A model of the user's own, and the experiment that uses it.
OWN = """
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from research.common.config import not_configured, to_config_dict
from research.tasks.image_classification.task import ImageClassification
from research.training.experiment import Experiment


class Net(nn.Module):
    num_classes: int = not_configured(0)
    dtype: Any = not_configured(jnp.float32)

    @nn.compact
    def __call__(self, images, train):
        return nn.Conv(self.num_classes, (3, 3))(images).mean((1, 2))


def get_config():
    return to_config_dict(Experiment(task=ImageClassification(model=Net())))
"""

# The folder in which every command runs. Experiments are those beside the package.
FILES = {
    "syntax.py": "def f(:",
    "imports.py": "import numpie",
    "raises.py": "def get_config():\n    return {}['task']",
    "nothing.py": "def get_config():\n    pass",
    "empty.py": "",
    "without_train.py": OWN.replace("images, train", "images"),
    "maps.py": OWN.replace(".mean((1, 2))", ""),
    "no_call.py": OWN.replace("__call__", "forward"),
    "no_module.py": OWN.replace("class Net(nn.Module)", "@dataclass(frozen=True)\nclass Net"),
    "file": "",
    "data/train/cat/readme.txt": "",
}
SHORT = {
    "$TRAIN": "train --config=experiments/image_classification/digits_mlp.py --workdir=new",
    "$CONFIG": "--config=experiments/image_classification/digits_mlp.py",
    "$SPEECH": "--config=experiments/speech_recognition/spoken_digits.py --workdir=new",
    "$BOXES": "--config=experiments/object_detection/digit_scenes.py --workdir=new",
    "$TEXTS": "--config=experiments/sequence_to_sequence/pronunciation.py --workdir=new",
}

QUOTED = """ARGS="'--config.KEY=a b'\""""

# The command line and its error, in which ... stands for any text.
MISTAKES = {
    # A command or a flag that does not exist, or is missing.
    "polymath tran": "unknown command 'tran'; did you mean 'train'?",
    "polymath --config=a.py": "missing command before --config=a.py; known: benchmark, config, ...",
    "train": "missing --config and --workdir; --help shows an example",
    "train $CONFIG": "missing --workdir; --help shows an example",
    "train $CONFIG --workdir=": "invalid flag --workdir=: expected a value",
    "train $CONFIG --workdir": "missing value for flag --workdir; --help describes the flags",
    "$TRAIN --wrokdir=old": "unknown flag --wrokdir; did you mean '--workdir'?",
    "$TRAIN --batch_size=32": "unknown flag --batch_size; known: --allow_config_change, --config, "
    "--workdir; a key of the experiment is set by --config.batch_size=VALUE",
    "$TRAIN --cofig.seed=1": "unknown flag --cofig.seed; did you mean --config.seed?",
    "$TRAIN --allow_config_change=maybe": "invalid flag --allow_config_change=maybe: expected "
    "true or false",
    "$TRAIN --workdir=old": "invalid flag --workdir=old: given 2 times; leave all but one out",
    "report --workdir=runs/saved --workdir=runs/b": "invalid flag --workdir=runs/b: given 2 times; "
    "leave all but one out",
    # Arguments that no flag takes.
    "$TRAIN experiments/a.py": "unexpected argument 'experiments/a.py': did you mean "
    "--config=experiments/a.py?",
    "$TRAIN config.seed=1": "unexpected argument 'config.seed=1': did you mean --config.seed=1?",
    "$TRAIN seed=1": "unexpected argument 'seed=1': did you mean --config.seed=1?",
    "train $CONFIG --workdir=my runs/1": "unexpected argument 'runs/1': quote a value that "
    'contains spaces, as in --workdir="my runs/1", and in make as in ' + QUOTED,
    "$TRAIN --config.duration=2 epochs": "unexpected argument 'epochs': quote a value that "
    'contains spaces, as in --workdir="my runs/1", and in make as in ' + QUOTED,
    "train --config=~/absent.py --workdir=new": "missing experiment file ...home/absent.py; see "
    "...experiments/",
    "evaluate --workdir=~/absent": "missing run in ...home/absent; `python -m research.train` "
    "creates one",
    # The experiment file.
    "train --config=digits_mpl.py --workdir=new": "missing experiment file digits_mpl.py; did you "
    "mean experiments/image_classification/digits_mlp.py?",
    "train --config=mine.py --workdir=new": "missing experiment file mine.py; see ...experiments/",
    "train --config=experiments --workdir=new": "missing experiment file experiments; see ...",
    "train --config=empty.py --workdir=new": "empty.py does not define get_config(); see "
    "experiments/ for examples",
    "train --config=nothing.py --workdir=new": "get_config() of nothing.py returns NoneType: "
    "expected to_config_dict(Experiment(...))",
    "train --config=syntax.py --workdir=new": "cannot run syntax.py:1: SyntaxError: ...; correct "
    "the file",
    "train --config=imports.py --workdir=new": "cannot run imports.py:1: ModuleNotFoundError: No "
    "module named 'numpie'; correct the file",
    "train --config=raises.py --workdir=new": "cannot run raises.py:2: KeyError: 'task'; correct "
    "the file",
    # A model of the user's own.
    "train --config=without_train.py --workdir=new": "config.model.type: invalid arguments of "
    "Net.__call__, (self, images): expected (self, images, train)",
    "train --config=maps.py --workdir=new": "config.task.model: invalid outputs of Net, of shape "
    "[1, 8, 8, 10]; return logits [batch, classes], here [1, 10]",
    "train --config=no_call.py --workdir=new": "config.model.type: missing methods or fields of "
    "Net: add __call__",
    "train --config=no_module.py --workdir=new": "config.model.type: invalid class Net: expected "
    "a Flax module (flax.linen)",
    # Keys of the config.
    "$TRAIN --config.sed=1": "config.sed: unknown key; did you mean 'seed'?",
    "$TRAIN --config.nope=1": "config.nope: unknown key; known: batch_length, batch_size, ...",
    "$TRAIN --config.learning_rate=0.1": "config.learning_rate: unknown key; did you mean "
    "'optimizer.learning_rate'?",
    "$TRAIN --config.model.type=CNN": "config.model.type: unknown key; did you mean "
    "'task.model.type'?",
    "$TRAIN --config.optimizer.learning_rte=1": "config.optimizer.learning_rte: unknown key; did "
    "you mean 'learning_rate'?",
    "$TRAIN --config.optimizer.options.momentum=1": "config.optimizer.options.momentum: unknown "
    "argument of optax's adamw; known: b1, b2, ...",
    "$TRAIN --config.optimizer.options.b1=2": "config.optimizer.options.b1: invalid value 2: "
    "expected a number in [0, 1)",
    "$TRAIN --config.seed.x=1": "config.seed.x: unknown key; its parent is a plain value",
    "$TRAIN --config.seed": "invalid flag --config.seed: expected --config.KEY=VALUE",
    "$TRAIN --config.config.seed=1": "invalid change 'config.seed=1': leave out 'config.' at its "
    "beginning",
    # Values of the config.
    "$TRAIN --config.batch_size=many": "config.batch_size: invalid value 'many': expected int",
    "$TRAIN --config.batch_size=0": "config.batch_size: invalid value 0: expected at least 1",
    "$TRAIN --config.batch_size=": "config.batch_size: invalid value '': expected int",
    "$TRAIN --config.batch_size=1000000000": "config.batch_size: invalid value 1000000000: a step "
    "needs ... GB of memory, and ... GB are free; lower config.batch_size, or raise "
    "config.gradient_accumulation_steps",
    "$TRAIN --config.gradient_accumulation_steps=3": "config.batch_size: 64 is not divisible by "
    "gradient_accumulation_steps=3; try 63",
    "$TRAIN --config.seed=-1": "config.seed: invalid value -1: expected an integer from 0 to 2^32 "
    "- 1",
    "$TRAIN --config.duration=20": "config.duration: invalid duration '20': expected e.g. '20 "
    "epochs' or 20_epochs, 100_000_steps, 500_000_examples",
    "$TRAIN --config.duration=2_parsecs": "config.duration: invalid duration '2_parsecs': ...",
    "$TRAIN --config.optimizer.warmup=999_epochs": "config.duration: invalid length 1950: expected "
    "more steps than optimizer.warmup, 12987; raise it, or lower optimizer.warmup or "
    "batch_size=64",
    "$TRAIN --config.duration=0_epochs": "config.duration: invalid length 0: expected at least 1 "
    "step",
    "$TRAIN --config.batch_size=5000 --config.duration=1_epoch": "config.duration: invalid length "
    "1: expected more steps than optimizer.warmup, ...; raise it, or lower optimizer.warmup or "
    "batch_size=5000",
    "$TRAIN --config.optimizer.name=adamz": "config.optimizer.name: unknown optimizer 'adamz'; did "
    "you mean 'adam'?",
    "$TRAIN --config.optimizer=adam": "config.optimizer: invalid value 'adam': expected Optimizer; "
    "set its keys: name, learning_rate, ...",
    "$TRAIN --config.optimizer.schedule=cosin": "config.optimizer.schedule: unknown schedule "
    "'cosin'; did you mean 'cosine'?",
    "$TRAIN --config.optimizer.learning_rate=nan": "config.optimizer.learning_rate: invalid value "
    "nan: expected float",
    "$TRAIN --config.optimizer.learning_rate=-1": "config.optimizer.learning_rate: invalid value "
    "-1.0: expected at least 0",
    "$TRAIN --config.mesh.devices=99": "config.mesh.devices: invalid number 99: expected at most "
    "8, the available devices",
    "$TRAIN --config.mesh.fsdp=3": "config.mesh: data=-1, fsdp=3, tensor=1 do not multiply to 8 "
    "devices; set data to -1",
    "$TRAIN --config.initialize=runs/a": "config.initialize: invalid value 'runs/a': expected "
    "Initialize | None; set its keys: source, ...",
    "$TRAIN --config.initialize.source=runs/a": "missing file runs/a: expected the workdir of a "
    "run, a .safetensors or PyTorch file, an installed package, or hf:OWNER/NAME",
    "$TRAIN --config.task.model.type=cnn": "config.task.model.type: unknown class 'cnn'; did you "
    "mean 'CNN'?",
    "$TRAIN --config.task.model.depth=18": "config.task.model.depth: unknown key of MLP; select "
    "ResNet... by the key 'type'",
    "$TRAIN --config.task.model.type=absent.py:Net": "config.task.model.type: missing file "
    "absent.py, which defines Net; restore it, or run the command in the folder of its training",
    "$TRAIN --config.task.model=CNN": "config.task.model: invalid value 'CNN': expected MLP | ...; "
    "select a class by the key 'type'",
    "$TRAIN --config.task.model.widths=0": "config.task.model.widths: invalid value (0,): expected "
    "at least 1",
    "$TRAIN --config.task.model.dropout=2": "config.task.model.dropout: invalid rate 2.0: expected "
    "a number in [0, 1)",
    "$TRAIN --config.task.model.widths=1000000,1000000": "config.task.model: parameters and "
    "optimizer need ... GB of memory, and ... GB are free; choose a smaller model, or raise "
    "mesh.fsdp",
    # Data.
    "$TRAIN --config.task.source.path=data": "config.task.source.path: unknown key of "
    "Digits; select ImageFolder by the key 'type'",
    "$TRAIN --config.task.source.type=ImageFolder": "config.task.source.path: missing; ImageFolder "
    "requires path",
    "$TRAIN --config.task.source.type=ImageFolder --config.task.source.path=absent": "config.task."
    "source.path: missing folder absent/train; put the images in absent/train/CLASS/",
    "$TRAIN --config.task.source.type=ImageFolder --config.task.source.path=data": "config.task."
    "source.path: ...",
    "train --config=experiments/image_classification/cifar10_resnet.py --workdir=new": "...make "
    "dataset NAME=cifar10...",
    "$TRAIN --config.task.source.type=TFDS": "config.task.source.name: missing; TFDS requires ...",
    "train $SPEECH --config.task.source.type=Manifest --config.task.source.train=absent": "config."
    "task.source.train: ...absent...",
    "train $SPEECH --config.task.source.train=absent.jsonl": "config.task.source.train: unknown "
    "key of ...; select ...Manifest... by the key 'type'",
    "train $BOXES --config.task.source.type=VOC --config.task.source.path=absent": "config.task."
    "source...absent...",
    "train $BOXES --config.task.source.type=COCO": "config.task.source.path: missing; COCO "
    "requires path...",
    "train $TEXTS --config.task.source.type=ParallelText": "config.task.source.train: missing; "
    "ParallelText requires train",
    "train $TEXTS --config.task.source.type=ParallelText --config.task.source.train=absent.tsv": ""
    "config.task.source.train: missing file absent.tsv; check the path",
    # Workdirs.
    "train $CONFIG --workdir=file": "invalid folder file: file is a file; choose another path",
    "train $CONFIG --workdir=file/run": "invalid folder file/run: ...file is a file; ...",
    "train $CONFIG --workdir=gs:/runs": "invalid path 'gs:/runs': expected a path on disk or "
    "gs://BUCKET/FOLDER",
    "train $CONFIG --workdir=s3://runs/a": "invalid path 's3://runs/a': expected a path on disk or "
    "gs://BUCKET/FOLDER",
    "train $CONFIG --workdir=runs/saved": "runs/saved belongs to another config (...); choose "
    "another --workdir, or continue with --allow_config_change",
    "train $CONFIG --workdir=runs/saved --config.batch_size=32": "runs/saved was started with "
    "another batch_size: 64 -> 32; choose another --workdir",
    "evaluate": "missing --workdir; --help shows an example",
    "evaluate --workdir=runs/svaed": "missing run in runs/svaed; did you mean 'runs/saved'?",
    "evaluate --workdir=runs": "missing run in runs; did you mean 'runs/saved'?",
    "evaluate --workdir=data": "missing run in data; `python -m research.train` creates one",
    # Evaluation and prediction.
    "evaluate --workdir=runs/saved --split=tset": "invalid flag --split=tset: expected train or "
    "validation or test; did you mean 'test'?",
    "evaluate --workdir=runs/saved --average=two": "invalid flag --average=two: expected a "
    "positive integer",
    "evaluate --workdir=runs/saved --average=2": "cannot average 2 checkpoints: ...",
    "evaluate --workdir=runs/saved --config.batch_size=8": "unknown flag --config.batch_size; did "
    "you mean --change=batch_size=VALUE?",
    "evaluate --workdir=runs/saved --change=batchsize=8": "config.batchsize: unknown key; did you "
    "mean 'batch_size'?",
    "evaluate --workdir=runs/saved --change=config.batch_size=8": "invalid change "
    "'config.batch_size=8': leave out 'config.' at its beginning",
    "evaluate --workdir=runs/saved --change=batch_size": "invalid change 'batch_size': expected "
    "KEY=VALUE, e.g. batch_size=64",
    "predict --workdir=runs/saved": "missing input: list files or texts after the flags, or set "
    "--input=FILE",
    "predict --workdir=runs/saved data": "invalid image data: it is a folder; expected a file",
    "predict --workdir=runs/saved absent.png": "...absent.png...",
    "predict --workdir=runs/saved --input=absent.txt": "missing file absent.txt; check the path",
    "predict --workdir=runs/saved --stream a.png": "ImageClassification does not support "
    "streaming; leave --stream out",
    "predict --workdir=runs/saved --pictures=new a.png": "ImageClassification does not draw "
    "pictures; leave --pictures out",
    "predict --workdir=runs/saved --beam=3 a.png": "config.task.decoding: unknown key; known: ...",
    "predict --workdir=runs/saved --pictures=file a.png": "invalid folder file: file is a file; "
    "choose another path",
    "predict --workdir=runs/saved a.png --jsno": "unknown flag --jsno; did you mean '--json'?",
    # Export and report.
    "export --workdir=runs/saved --output=new": "missing --format; --help shows an example",
    "export --workdir=runs/saved --format=onnx --output=new": "invalid flag --format=onnx: "
    "expected safetensors or stablehlo; known: safetensors, stablehlo",
    "export --workdir=runs/saved --format=safetensors --output=data": "data exists and is not an "
    "empty folder; remove it or choose another",
    "export --workdir=runs/saved --format=safetensors --output=new --push=me": "invalid target "
    "'me': expected hf:OWNER/NAME",
    "export --workdir=runs/saved --format=safetensors --output=new --dtype=bfloat16": "invalid "
    "flag --dtype=bfloat16: expected none with --format=safetensors, which stores the parameters "
    "as trained",
    "report --workdir=runs/saved,": "invalid flag --workdir=runs/saved,: expected a value",
    "report --workdir=runs/saved,runs/saved": "invalid workdirs: ...runs/saved is listed several "
    "times; list it once",
    "report --workdir=runs/absent": "missing run in runs/absent; ...",
    "report --workdir=runs/saved --output=data": "cannot write data: Is a directory; choose "
    "another path",
    # Config, plan and benchmark.
    "config": "missing experiment file: expected python -m research.config FILE",
    "config --config=a.py": "unknown flag --config; ...",
    "config experiments/image_classification/digits_mlp.py seed=1": "unexpected argument 'seed=1': "
    "did you mean --config.seed=1?",
    "config experiments/image_classification/digits_mlp.py config.seed=1": "unexpected argument "
    "'config.seed=1': did you mean --config.seed=1?",
    "config batch_size=32": "unexpected argument 'batch_size=32': did you mean "
    "--config.batch_size=32?",
    "config a.py b.py": "unexpected argument 'b.py': expected one experiment file",
    "plan": "expected either --config or --record",
    "plan $CONFIG --slice=v5e-3": "invalid accelerator type ...: v5litepod-N counts chips, and N "
    "can be 1, 4, ...",
    "plan $CONFIG --slice=v9-8": "unknown accelerator type 'v9-8': did you mean 'v4-8'? ...",
    "plan $CONFIG --slice=": "invalid flag --slice=: expected a value",
    "plan $CONFIG --examples=0": "invalid flag --examples=0: expected at least 1",
    "plan $CONFIG --compare --predict": "invalid flags: --compare plans the training step ...",
    "benchmark $CONFIG --steps=1": "invalid flag --steps=1: expected at least 2",
    "benchmark $CONFIG --config.batch_size=1000000000": "config.batch_size: invalid value "
    "1000000000: a step needs ... GB of memory, ...",
    # Several processes, and make.
    "local_slice.py": "missing arguments of the training; write `-- --config=... --workdir=...`; "
    "see --help",
    "local_slice.py $CONFIG --workdir=new": "unrecognized arguments: --config=...; write `--` "
    "before those of the training; see --help",
    "local_slice.py --processes=0 -- $CONFIG": "argument --processes: invalid value '0': expected "
    "an integer of at least 1; see --help",
    "make train WORKDRI=new": "unknown variable WORKDRI; known: PYTHON VENV CONFIG WORKDIR ...",
    "make tarin": "No rule to make target 'tarin'...",
    "make dataset": "missing NAME; expected e.g. make dataset NAME=cifar10",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mistakes")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    saved = shutil.copytree(SAVED, folder / "runs" / "saved")
    config = from_config_dict(Experiment, read_json(saved / "config.json"))  # names of today
    save_json(saved / "config.json", to_config_dict(config).to_dict())
    (saved / "metrics.jsonl").write_text('{"step": 40, "split": "train", "loss": 1.0}\n')
    return folder


@pytest.fixture
def run(folder, in_process, monkeypatch, capfd):
    """Returns a function that runs a command in this process; it returns exit code and error."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder / "home"))
    monkeypatch.setattr("research.common.progress._DELAY", 1e6)  # on a busy machine

    def run(name, arguments):
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        with pytest.raises(SystemExit) as end:
            function(name)()
        output, error = capfd.readouterr()
        assert output == ""
        return end.value.code, error

    return run


def function(name):
    if name == "polymath":
        return polymath.main
    if name == "local_slice.py":
        return lambda: sys.exit(local_slice.main(sys.argv[1:]))
    return importlib.import_module(f"research.{name}").run_command


def make_in(folder, arguments):
    """Runs make with an environment that is installed; returns its exit code and error."""
    done = make(f"VENV={folder}", *arguments, folder=folder)
    lines = re.sub(r"^make: \*\*\* \[.*\n", "", done.stderr, flags=re.MULTILINE)  # after a recipe's
    return done.returncode, re.sub(r"^\S+ \*\*\* (.*?)(\.  Stop\.)?$", r"error: \1", lines)


def snapshot(folder):
    """Returns all files with the times of their modification, but for locks that nobody holds."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "lock"]
    return {path: path.stat().st_mtime_ns for path in files}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_gets_one_line_and_writes_nothing(line, folder, run):
    command = line
    for short, text in SHORT.items():
        command = command.replace(short, text)
    name, *arguments = shlex.split(command)
    before = snapshot(folder)
    code, error = make_in(folder, arguments) if name == "make" else run(name, arguments)
    expected = ".*".join(map(re.escape, f"error: {MISTAKES[line]}\n".split("...")))
    assert re.fullmatch(expected, error), error
    assert code == 2
    assert snapshot(folder) == before

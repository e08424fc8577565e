"""The file that `research.report` writes by default."""

from pathlib import Path

from etils import epath

from research.report import default_output


def test_the_report_of_one_run_is_in_its_folder():
    assert default_output([Path("runs/a")]) == Path("runs/a/report.html")


def test_comparisons_of_a_run_with_others_are_different_files_beside_it():
    runs = Path.cwd() / "runs"
    assert default_output([Path("runs/a"), Path("runs/b")]) == runs / "a_vs_b.html"
    assert default_output([Path("runs/a/"), Path("runs/c")]) == runs / "a_vs_c.html"
    bucket = [epath.Path("gs://runs/a"), epath.Path("gs://runs/b")]
    assert str(default_output(bucket)) == "gs://runs/a_vs_b.html"


def test_runs_of_the_same_name_are_named_by_their_folders():
    workdirs = [Path("mlp/run"), Path("cnn/run")]
    assert default_output(workdirs) == Path.cwd() / "mlp" / "mlp_run_vs_cnn_run.html"


def test_the_name_of_many_runs_fits_a_file_system():
    workdirs = [Path(f"runs/seed_{seed}_of_a_long_sweep") for seed in range(50)]
    output, other = default_output(workdirs), default_output([*workdirs[:-1], Path("runs/last")])
    assert output.name.startswith("seed_0_of_a_long_sweep_vs_seed_1_")
    assert len(output.name) <= 128
    assert output != other

"""`validate` and `plan` find a misspelt column in the headers of sources and frames, before anything is read or fitted."""

import gzip
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import line

FRAME = {"state": ["AL", "OH"], "race": ["Black", "White"], "female": [0, 1], "share": [0.4, 0.6], "n": [10, 20]}
WITH_FRAME = line.CONFIG.replace("poststratify: {by: [all, state, race]}", "poststratify: {by: [all, state], frame: FRAME, count: n}")


def written(folder: Path, name: str, columns: dict[str, list]) -> Path:
    table, path = pa.table(columns), folder / name
    if name.endswith(".parquet"):
        pq.write_table(table, path)
        return path
    options = pyarrow.csv.WriteOptions(delimiter="\t" if ".tsv" in name else ";" if "semicolon" in name else ",")
    with gzip.open(path, "wb") if name.endswith(".gz") else open(path, "wb") as file:
        pyarrow.csv.write_csv(table, file, options)
    return path


def test_a_right_config_is_good_and_nothing_is_written(tmp_path: Path):
    config = line.make(tmp_path)
    assert line.caucus("validate", config).out.endswith(": good\n")
    assert line.caucus("plan", config).code == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run.yaml", "voters"]


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ("model.formula=voted ~ 1 + femal + (1 | state)", "femal"),
        ("model.formula=voted ~ 1 + female + (1 | stat)", "stat"),
        ("model.formula=voted ~ 1 + (1 + shar | state)", "shar"),
        ("poststratify.by=[all, rac]", "rac"),
        ("poststratify.by=[all, 'state:rac']", "rac"),
        ("data.outcome={voted: vote}", "vote"),
        ("data.weight=wt", "wt"),
        ("shards.by=stat", "stat"),
        ("data.columns.female.source=sex", "sex"),
        ("data.columns.nobody.type=factor", "nobody"),
    ],
)
@pytest.mark.parametrize("command", ["validate", "plan"])
def test_a_column_that_no_file_has_is_found(command: str, setting: str, name: str, tmp_path: Path):
    said = line.caucus(command, line.make(tmp_path), "--set", setting)
    assert said.code == 2, said
    assert f"no column '{name}'" in said.message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "tsv", "tab.gz"])
def test_headers_of_text_are_read_too(ending: str, tmp_path: Path):
    columns = line.voters()
    config = line.make(tmp_path, config=line.CONFIG.replace("voters/*", f"voters.{ending}"))
    written(tmp_path, f"voters.{ending.replace('tab', 'tsv')}", columns).rename(tmp_path / f"voters.{ending}")
    assert line.caucus("validate", config).code == 0
    said = line.caucus("validate", config, "--set", "poststratify.by=[all, county]")
    assert said.code == 2
    assert "no column 'county'" in said.message


def test_only_the_first_megabyte_of_text_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = line.make(tmp_path, config=line.CONFIG.replace("voters/*", "voters.csv"))
    header = ",".join(line.voters(1))
    with open(tmp_path / "voters.csv", "wb") as file:
        file.write(f"{header}\n".encode() + b"x,AL,White,1,0.5,1\n" * 200_000)
        file.write(b'\xff"broken')
    assert line.caucus("validate", config).code == 0
    assert line.caucus("run", config).code == 2


@pytest.mark.parametrize("ending", ["parquet", "csv", "csv.gz", "tsv", "tsv.gz", "semicolon.csv"])
@pytest.mark.parametrize("command", ["validate", "plan"])
def test_a_frame_is_looked_at_too(command: str, ending: str, tmp_path: Path):
    written(tmp_path, f"f.{ending}", FRAME)
    config = line.make(tmp_path, config=WITH_FRAME.replace("FRAME", f"f.{ending}"))
    assert line.caucus(command, config).code == 0, line.caucus(command, config)
    for gone in ("state", "race", "female", "n"):
        written(tmp_path, f"f.{ending}", {name: values for name, values in FRAME.items() if name != gone})
        said = line.caucus(command, config)
        assert said.code == 2, said
        assert f"also ['{gone}']" in said.message
    (tmp_path / f"f.{ending}").unlink()
    assert line.caucus(command, config).code == 2

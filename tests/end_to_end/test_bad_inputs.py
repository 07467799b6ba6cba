"""Bad inputs: each ends with one clear message and the right exit code, and leaves nothing half-written.

After every one of them the input is mended and the very same command runs to its end in the same run directory.
"""

import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import line
from line import CONFIG

Breaks = Callable[[Path], list[str] | None]


def config(old: str, new: str) -> Breaks:
    """Replace a piece of the config."""

    def breaks(folder: Path) -> None:
        assert old in CONFIG
        (folder / "run.yaml").write_text(CONFIG.replace(old, new))

    return breaks


def settings(*wanted: str) -> Breaks:
    """Pass ``--set``."""
    return lambda folder: [part for setting in wanted for part in ("--set", setting)]


def data(**columns: Any) -> Breaks:
    """Replace columns of the file; None leaves a column out, a function is given the values."""

    def breaks(folder: Path) -> None:
        table = line.voters()
        for name, values in columns.items():
            changed = values(table[name]) if callable(values) else values
            table = {k: v for k, v in table.items() if k != name} | ({} if changed is None else {name: changed})
        line.write_voters(folder, table)

    return breaks


def text(name: str, content: str | bytes) -> Breaks:
    """Put one text file in the place of the voters."""

    def breaks(folder: Path) -> None:
        (folder / "voters" / "part-0.parquet").unlink()
        (folder / "voters" / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return breaks


def first(value: Any) -> Callable[[list[Any]], list[Any]]:
    """Change the first value of a column."""
    return lambda values: [value, *values[1:]]


def file(content: Callable[[bytes], bytes]) -> Breaks:
    """Change the bytes of the voters' file."""

    def breaks(folder: Path) -> None:
        path = folder / "voters" / "part-0.parquet"
        path.write_bytes(content(path.read_bytes()))

    return breaks


def frame(content: str) -> Breaks:
    """Poststratify to a frame of one's own."""

    def breaks(folder: Path) -> list[str]:
        (folder / "frame.csv").write_text(content)
        return ["--set", "poststratify.frame=frame.csv", "--set", "poststratify.count=n"]

    return breaks


def all_of(*breaks: Breaks) -> Breaks:
    """Several things at once."""
    return lambda folder: [argument for one in breaks for argument in one(folder) or ()]


FRAME = "state,race,female,share,n\nAL,White,1,0.5,10\n"
BINOMIAL = config("outcome: voted", "outcome: {successes: ayes, trials: asked}")
LIMITED = config("terms_of_use", "columns: {race: {levels: [White, Black]}}, terms_of_use")
UNIQUE = config("terms_of_use", "id_column: voter_id, duplicates: error, terms_of_use")
LATIN = ("state,race,female,share,voted\n" + "AL,Espa\xf1ol,1,0.5,1\n" * 2).encode("latin-1")
EMPTY = {name: pa.array([], pa.array(values).type) for name, values in line.voters().items()}
BOMB = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 20)}]\n" for i in range(1, 9))


def counts(successes: Any, trials: Any) -> Breaks:
    """Successes and trials instead of 0 and 1, wrong in the first row."""
    return all_of(BINOMIAL, data(ayes=[successes] + [1] * 399, asked=[trials] + [2] * 399))


def more_files(name: str, content: str) -> Breaks:
    """Put another file beside the voters'."""
    return lambda folder: (folder / "voters" / name).write_text(content) and None


CASES: dict[str, tuple[Breaks, tuple[str, ...]]] = {
    # the config
    "misspelt key": (config("formula:", "formla:"), ("run.yaml:4", "'formla'", "Did you mean `formula`")),
    "misspelt section": (config("poststratify:", "postratify:"), ("run.yaml:9", "Did you mean `poststratify`")),
    "misspelt setting": (settings("fit.round=3"), ("--set fit.round=3", "Did you mean `rounds`")),
    "setting of no form": (settings("fit.rounds"), ("--set fit.rounds", "a.b.c=value")),
    "number out of range": (settings("fit.damping=1.5"), ("--set fit.damping=1.5", "less than or equal to 1", "1.5")),
    "unknown executor": (settings("run.executor=spark"), ("run.executor", "serial, ray, auto", "spark")),
    "unknown method": (settings("fit.method=mcmc"), ("fit.method", "'nuts'", "mcmc")),
    "unknown family": (settings("model.family=weibull"), ("model.family", "bernoulli", "weibull")),
    "prior of an unknown name": (settings("model.priors.sx=half_normal(1)"), ("model.priors", "sx", "sd")),
    "prior of an unknown kind": (settings("model.priors.sd=half_nrmal(1)"), ("half_nrmal", "half_normal")),
    "prior of a wrong kind": (settings("model.priors.sd=normal(0, 1)"), ("model.priors.sd", "half_normal")),
    "FIPS code unquoted": (
        config("terms_of_use", "columns: {state: {levels: [01, 02]}}, terms_of_use"),
        ("run.yaml:2", "data.columns.state.levels.0", "found 01", 'Quote it: "01"'),
    ),
    "key twice": (
        config("fit: {draws: 100, min_ess: 100}", "fit: {draws: 100, min_ess: 100}\nfit: {draws: 200}"),
        ("run.yaml:8", "fit", "twice|once|duplicate"),
    ),
    "YAML broken": (config("run: {", "run: {{"), ("run.yaml:1[0-2]", "YAML")),
    "YAML tag": (config("seed: 1", "seed: !!python/object/apply:os.getpid []"), ("run.yaml:11", "run.seed", "tag")),
    "YAML bomb": (config("name: small", "a0: &a0 [x, y]\n" + BOMB + "name: small"), ("run.yaml", "aliases expanded")),
    "config empty": (lambda folder: (folder / "run.yaml").write_text("") and None, ("run.yaml:1", "an empty file")),
    "config that is a list": (
        lambda folder: (folder / "run.yaml").write_text("- a\n") and None,
        ("run.yaml:1", "a list"),
    ),
    "config not text": (
        lambda folder: (folder / "run.yaml").write_bytes(b"\xff\xfe\0") and None,
        ("run.yaml", "UTF-8"),
    ),
    # the model
    "formula with a function call": (config("+ share", "+ os.getcwd()"), ("run.yaml:4", "os.getcwd|'\\.'", "expected")),
    "formula that is broken": (config("(1 | race)", "(1 | race"), ("run.yaml:4", "model.formula")),
    "formula of another outcome": (config("outcome: voted", "outcome: female"), ("voted", "female")),
    "outcome as a predictor": (config("+ share", "+ voted"), ("voted", "outcome")),
    "unknown column": (config("+ female +", "+ femal +"), ("femal", "Did you mean 'female'")),
    "unknown outcome": (config("voted", "votd"), ("votd", "Did you mean 'voted'")),
    "unknown margin": (config("[all, state, race]", "[all, rce]"), ("rce", "Did you mean 'race'")),
    "margin of a number": (config("[all, state, race]", "[all, share]"), ("share", "margin|factor")),
    "unknown column to shard by": (config("by: state", "by: stat"), ("stat", "Did you mean 'state'")),
    "identifier as a group, numeric as a shard": (config("by: state", "by: share"), ("shards.by", "share", "factor")),
    # the files
    "glob without a match": (config('"voters/*"', '"voters/*.pq"'), ("voters/\\*\\.pq", "no file", "Correct")),
    "folder that is not there": (config('"voters/*"', "voterz"), ("voterz", "no file", "Correct")),
    "unknown scheme": (config('"voters/*"', '"s4://bucket/x.parquet"'), ("s4://bucket", "known scheme")),
    "formats mixed": (more_files("more.csv", "state\n"), ("files of several formats", "Narrow the glob")),
    "file of no format": (more_files("README", "hello"), ("README", "does not tell its format", "data.format")),
    "file named twice": (config('"voters/*"', '["voters/*", "voters/part-0.parquet"]'), ("1 file\\(s\\) named twice",)),
    "empty file": (text("part-0.csv", ""), ("part-0.csv", "an empty file", "a header line")),
    "no bytes in Parquet": (file(lambda b: b""), ("part-0.parquet", "not whole Parquet")),
    "no rows in Parquet": (data(**EMPTY), ("no row in 1 file", "at least one row")),
    "header and no row": (text("part-0.csv", "state,race,female,share,voted\n"), ("no row in 1 file",)),
    "truncated Parquet": (file(lambda b: b[: len(b) // 2]), ("part-0.parquet", "not whole Parquet", "truncated")),
    "Parquet damaged inside": (
        file(lambda b: b[: len(b) // 2] + b"\xff" * 600 + b[len(b) // 2 + 600 :]),
        ("data.source|part-0", "damaged"),
    ),
    "not Parquet": (file(lambda b: b"PK\x03\x04 nothing"), ("part-0.parquet", "not whole Parquet")),
    "ragged CSV": (
        text("part-0.csv", "state,race,female,share,voted\nAL,White\nOH,Black,1\n"),
        ("csv:too_few_fields", "data.delimiter"),
    ),
    "CSV in another encoding": (text("part-0.csv", LATIN), ("encoding",)),
    "CSV without a header": (text("part-0.csv", "AL,AL,1,0.5,1\nOH,Black,0,0.4,0\n"), ("header",)),
    "bytes that are not text": (text("part-0.csv", os.urandom(2000)), ("part-0.csv", "text in utf-8")),
    # the rows
    "column all missing": (data(share=pa.nulls(400, pa.float64())), ("data.columns.share", "missing in every row")),
    "factor all missing": (data(race=pa.nulls(400, pa.string())), ("data.columns.race", "missing in every row")),
    "level not in the contract": (LIMITED, ("row\\(s\\) race:unexpected_level", "data.columns.race.levels")),
    "number that is text in one row": (
        all_of(
            config("terms_of_use", "columns: {share: {type: numeric}}, terms_of_use"),
            data(share=["a lot"] + ["1"] * 399),
        ),
        ("1 row\\(s\\) share:not_a_number", "finite number"),
    ),
    "number not finite": (data(share=first(float("inf"))), ("1 row\\(s\\) share:not_finite", "finite number")),
    "outcome with a 2": (data(voted=first(2)), ("1 row\\(s\\) voted:not_0_or_1", "0, 1 or missing", "data.outcome")),
    "outcome that is text": (data(voted=["maybe"] * 400), ("400 row\\(s\\) voted:not_a_number",)),
    "outcome never known": (data(voted=pa.nulls(400, pa.int64())), ("data.outcome", "no row with a known outcome")),
    "negative trials": (counts(0, -1), ("1 row\\(s\\) outcome:negative", "0 <= successes <= trials")),
    "more successes than trials": (counts(3, 2), ("1 row\\(s\\) outcome:successes_exceed_trials",)),
    "half a success": (counts(0.5, 2.0), ("1 row\\(s\\) outcome:not_whole",)),
    "id twice": (all_of(UNIQUE, data(voter_id=first("V000001"))), ("1 row\\(s\\) id:duplicate", "every id once")),
    "factor of one level as a predictor": (
        all_of(config("+ share", "+ party"), data(party=["D"] * 400)),
        ("party", "level"),
    ),
    "predictor that never varies": (data(share=[0.5] * 400), ("share", "constant|same|vari")),
    # the frame
    "frame that is not there": (
        settings("poststratify.frame=no.csv", "poststratify.count=n"),
        ("poststratify.frame", "no.csv", "no file"),
    ),
    "frame without a column": (frame("state,race,female,n\nAL,White,1,10\n"), ("frame.csv", "share")),
    "frame none of whose levels is known": (
        frame("state,race,female,share,n\nal,White,1,0.5,10\n"), ("frame.csv", "in any row", "'al' and 'AL' differ in case"),
    ),
    "frame with an unknown level of a fixed effect": (
        all_of(config("share + (1 | state)", "share + state"), frame(FRAME + "XX,White,1,0.5,10\n")), ("1 rows", "'state'", "AL"),
    ),
    "frame with a 0/1 column as 1/2": (frame(FRAME + "OH,White,2,0.5,3\n"), ("'female' is 2", "0 and 1", "1 of 2 rows")),
    "frame with a negative count": (frame(FRAME + "OH,White,1,0.5,-3\n"), ("frame.csv", "negative count")),
    "frame with a hole": (frame(FRAME + "OH,White,1,,3\n"), ("frame.csv", "1 missing", "'share'")),
    "frame that is no table": (frame("a,b\n1\n2,3,4\n"), ("frame.csv", "CSV table")),
    "frame without a level that cannot be drawn": (
        all_of(config("share + (1 | state)", "share + state"), frame(FRAME + ",White,1,0.5,10\n")),
        ("1 missing values in 'state' \\(50.0% of the people\\)", "leave_out"),
    ),
    "frame without a count": (settings("poststratify.frame=frame.csv"), ("poststratify", "count")),
}


FOUND_LATER = {
    "margin of a number",
    "factor of one level as a predictor",
    *(name for name in CASES if name.startswith("frame")),
}
"""What only the coded data can tell: the shards are whole by then."""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    line.make(folder)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name: str, good: Path, tmp_path: Path):
    breaks, says = CASES[name]
    folder = tmp_path / "project"
    shutil.copytree(good, folder)
    said = line.caucus("run", folder / "run.yaml", *(breaks(folder) or ()))
    assert said.code == 2, said
    for words in says:
        assert re.search(words, said.message), (words, said.message)
    assert "Traceback" not in said.err + said.out
    assert line.half_written(folder) == []
    if not (folder / "run").exists():  # refused before anything was written
        return
    assert not (folder / "run" / "shards" / "manifest.json").exists() or name in FOUND_LATER
    shutil.rmtree(folder / "voters")
    shutil.copytree(good / "voters", folder / "voters")
    shutil.copy2(good / "run.yaml", folder)
    mended = line.caucus("run", folder / "run.yaml")
    assert mended.code == 0, mended
    assert "verdict: pass" in mended.out


def test_output_that_nobody_reads_any_more_is_no_error(good: Path):
    with line.started("validate", good / "run.yaml") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == ("", 141)

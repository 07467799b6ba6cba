"""Hostile configs, sources and run directories: what an attacker, or bad luck, could hand to the command.

Every case is a name, a kind, and a function that prepares a folder and returns the arguments of the command. The folder has
`run.yaml` and `voters/part-0.parquet`, and for run directories `run/`, finished, as it was made on this machine.
"""

from __future__ import annotations

import gzip
import json
import os
import pickle
import struct
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SECRET = "hostile-canary-5731"
MARKER = "executed"
"""A file that appears in the folder if anything was executed."""
CONFIG = """\
name: small
data: {source: "voters/*", outcome: voted, terms_of_use: synthetic}
model:
  formula: voted ~ 1 + female + (1 | state)
  family: bernoulli
shards: {by: state, min_cells: 1}
fit: {draws: 100, rounds: 2}
audit: {draws: 100, max_extra_rounds: 0}
poststratify: {by: [all, state]}
publish: {min_count: 1}
run: {directory: run, seed: 1, executor: serial}
"""
Prepare = Callable[[Path], list[str]]


class Case(NamedTuple):
    """``refused``: exit code 2 with a message; otherwise ``harmless``: any code but a fault of ours (1)."""

    kind: str
    name: str
    prepare: Prepare
    is_refused: bool = True
    needs_run: bool = False


class Payload:
    """Unpickling it makes the file `MARKER`."""

    def __init__(self, folder: Path):
        self.path = str(folder / MARKER)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.path,)


def voters(folder: Path, **columns: object) -> None:
    """The small file of 200 invented people."""
    rng = np.random.default_rng(1)
    table: dict[str, object] = {
        "state": np.array(["AL", "OH", "WY"])[rng.integers(0, 3, 200)], "female": rng.integers(0, 2, 200),
        "voted": rng.integers(0, 2, 200), "voter_id": [f"V{i:05d}" for i in range(200)],
    }  # fmt: skip
    (folder / "voters").mkdir(exist_ok=True)
    pq.write_table(pa.table(table | columns), folder / "voters" / "part-0.parquet")


def all_cases() -> list[Case]:
    """Every case, in the order of the table."""
    return [*_yaml(), *_paths(), *_formulas(), *_names(), *_sources(), *_settings(), *_run_directories(), *_manifests()]


# ---- configs ----


def _yaml() -> list[Case]:
    laugh = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
    )
    quiet = "&a0 [x, x, x, x, x, x, x, x, x]"
    nested = "data: &d {source: x, outcome: y}\n"
    texts: dict[str, str | bytes] = {
        "aliases that expand to 10^10 values": laugh + CONFIG,
        "aliases in a value that is used": CONFIG + f"x: [{quiet}, *a0, *a0]\n",
        "mapping that contains itself": CONFIG + "x: &x {y: *x}\n",
        "list that contains itself": CONFIG + "x: &x [*x]\n",
        "alias of nothing": CONFIG + "x: *nothing\n",
        "flow lists 60 deep": CONFIG + "x: " + "[" * 60 + "]" * 60 + "\n",
        "flow lists 100,000 deep": CONFIG + "x: " + "[" * 100_000 + "]" * 100_000 + "\n",
        "flow mappings 5,000 deep": CONFIG + "x: " + "{a: " * 5000 + "1" + "}" * 5000 + "\n",
        "block mappings 400 deep": CONFIG + "".join(" " * i + f"k{i}:\n" for i in range(400)),
        "dashes 20,000 deep": CONFIG + "x:\n  " + "- " * 20_000 + "1\n",
        "a scalar of 2 MB": CONFIG.replace("synthetic", "s" * 2_000_000),
        "a key of 900 kB": CONFIG + "k" * 900_000 + ": 1\n",
        "200,000 values": CONFIG + "x: [" + "1, " * 200_000 + "1]\n",
        "a number of 100,000 digits": CONFIG.replace("seed: 1", "seed: " + "9" * 100_000),
        "infinity for a seed": CONFIG.replace("seed: 1", "seed: .inf"),
        "sexagesimal, octal and a sign": CONFIG.replace("seed: 1", "seed: -0o17"),
        "the section data twice": CONFIG + "data: {source: /etc/passwd}\n",
        "the key source twice": CONFIG.replace("outcome: voted", 'outcome: voted, "source": "/etc/passwd"'),
        "a merge key": nested + CONFIG.replace("run:", "<<: *d\nrun:"),
        "a merge key in a section": CONFIG.replace("audit: {", "audit: {<<: {draws: 1}, "),
        "a compound key": CONFIG + "? [a, b]\n: 1\n",
        "two documents": CONFIG + "---\n" + CONFIG,
        "a directive of another version": "%YAML 9.9\n---\n" + CONFIG,
        "a directive of a tag": "%TAG ! tag:evil,2024:\n---\nx: !boom 1\n" + CONFIG,
        "a NUL in it": CONFIG.replace("synthetic", "syn\0thetic"),
        "an escape character": CONFIG.replace("synthetic", "\x1b[2Jgone"),
        "bytes that are not UTF-8": CONFIG.encode() + b"x: \xff\xfe\n",
        "UTF-16": CONFIG.encode("utf-16"),
        "nothing": "", "a list": "- 1\n- 2\n", "a word": "run\n", "a pickle": b"",
        "a tab for indentation": CONFIG.replace("  family", "\tfamily"),
    }  # fmt: skip
    tags = {
        "!!python/object/apply:os.system": "['touch executed']", "!!python/object/new:os.system": "['touch executed']",
        "!!python/object/apply:subprocess.check_output": "[[touch, executed]]", "!!python/object:builtins.object": "{}",
        "!!python/name:os.system": "''", "!!python/module:os": "''", "!!python/tuple": "[1, 2]", "!!binary": "aGVsbG8=",
        "!!set": "{a, b}", "!!omap": "[a: 1]", "!!timestamp": "2024-01-01", "!!float": "wrong", "!!int": "0x", "!custom": "1",
        "!!js/function": "'function(){}'", "!ruby/object:Gem::Installer": "{}", "!!str": "{a: 1}", "!!map": "1",
    }  # fmt: skip
    cases = [Case("YAML", name, _config(text)) for name, text in texts.items() if name != "a pickle"]
    cases.append(Case("YAML", "a pickle", _config_pickle))
    for tag, value in tags.items():
        text = CONFIG.replace("terms_of_use: synthetic", f"terms_of_use: {tag} {value}")
        is_text = tag in ("!!timestamp", "!!map")  # read as the text that stands there
        cases.append(Case("YAML", f"the tag {tag}", _config(text), not is_text))
    return cases


def _config(text: str | bytes, *more: str, command: str = "validate") -> Prepare:
    def prepare(folder: Path) -> list[str]:
        (folder / "run.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return [command, str(folder / "run.yaml"), *more]

    return prepare


def _config_pickle(folder: Path) -> list[str]:
    (folder / "run.yaml").write_bytes(pickle.dumps(Payload(folder), protocol=0))
    return ["validate", str(folder / "run.yaml")]


def _set(*settings: str, command: str = "shard") -> Prepare:
    return lambda folder: [command, str(folder / "run.yaml"), *[p for s in settings for p in ("--set", s)]]


def _paths() -> list[Case]:
    refused = [
        "/etc/passwd", "../../../../../../etc/passwd", "file:///etc/passwd", "local:///etc/passwd", "/dev/zero", "/dev/stdin",
        "/proc/self/environ", "/proc/self/mem", "/proc/kcore", "~root/.ssh/*", "${HOME}/voters", "$SECRET_CANARY", "%2e%2e/%2e%2e/etc/passwd",
        "..\\..\\etc\\passwd", "\u2025/\u2025/etc/passwd", "\uff0e\uff0e/etc/passwd", "voters/\u202egpj.parquet", "http://127.0.0.1:9/x.parquet",
        "simplecache::file:///etc/passwd", "filecache::/etc/passwd", "zip://x::/etc/passwd", "tar://x::/etc/passwd",
        "reference://x.json", "dir::file:///etc", "github://a:b@c/x.parquet", "jupyter://localhost/x", "ftp://127.0.0.1:9/x",
        "sftp://127.0.0.1:9/x", "smb://127.0.0.1:9/x", "git://x:y", "webhdfs://127.0.0.1:9/x", "dask://x", "pickle://x", "data:,state", "javascript:x",
        "memory://../x.parquet", "-rf", "voters/[", "voters/part-0.parquet/../../run.yaml",
    ]  # fmt: skip
    cases = [Case("paths", f"data.source {value!r}", _set(f"data.source={json.dumps(value)}")) for value in refused]
    csv = ("data.format=csv",)
    cases += [
        Case("paths", f"data.source {value!r}, as CSV", _set(f"data.source={value}", *csv))
        for value in ("/dev/zero", "/dev/urandom", "/etc/passwd", "/proc/self/environ", "fifo")
    ]
    cases += [
        Case("paths", f"run.directory {value!r}", _set(f"run.directory={json.dumps(value)}"))
        for value in ("/dev/null", "/proc/self", "/etc/passwd/run", "file:///tmp/x", "ftp://x/y", "run\0x", "\ud800x"[1:] + "\0")
    ]
    cases.append(Case("paths", "run.directory that is not a run", _set("run.directory=voters")))
    frame = ("poststratify.count=n",)
    cases += [
        Case("paths", f"poststratify.frame {value!r}", _set(f"poststratify.frame={value}", *frame, command="run"))
        for value in ("/etc/passwd", "/dev/zero", "fifo", "simplecache::/etc/passwd")
    ]
    neighbours = "model.priors.state={{structure: icar, neighbours: {}}}"
    cases += [
        Case("paths", f"neighbours {value!r}", _set(neighbours.format(value)))
        for value in ("/etc/passwd", "/dev/zero", "fifo", "reference://x")
    ]
    return cases


def _formulas() -> list[Case]:
    many = " + ".join(f"x{i}" for i in range(60_000))
    texts = {
        "a call of os.system": "voted ~ os.system('touch executed')", "an import": "voted ~ __import__('os').getcwd()",
        "I()": "voted ~ I(female ** 2)", "braces": "voted ~ {open('executed', 'w')}", "lambda": "voted ~ (lambda: 1)()",
        "a walrus": "voted ~ (x := 1)", "an attribute": "voted ~ female.__class__", "exec": "voted ~ exec('1')", "eval": "voted ~ eval('1')",
        "a call on the left": "open('executed', 'w') ~ 1", "a string": "voted ~ 'x'", "a huge power": "voted ~ (female + state) ** 99999999",
        "a subscript": "voted ~ female[0]", "a comparison": "voted ~ female > 0", "100 stars": "voted ~ " + " * ".join(f"x{i}" for i in range(100)),
        "60,000 terms": f"voted ~ {many}", "2,000 brackets": "voted ~ " + "(" * 2000 + "female" + ")" * 2000,
        "100,000 brackets": "voted ~ " + "(" * 100_000, "50,000 minus signs": "voted ~ " + "-" * 50_000 + "female",
        "a line break": "voted ~ 1\nimport os", "a NUL": "voted ~ fem\0ale", "backticks with SQL": "voted ~ `x\"; DROP TABLE cells; --`",
        "look-alike letters": "voted ~ fem\u0430le", "an f-string": "voted ~ f'{open}'", "nothing": "", "no outcome": "~ 1",
        "a comment": "voted ~ 1 # + (", "an ellipsis": "voted ~ ...", "a star import": "voted ~ from os import *",
    }  # fmt: skip
    return [Case("formulas", name, _set(f"model.formula={json.dumps(text)}")) for name, text in texts.items()]


def _names() -> list[Case]:
    evil = {
        "a closed quote": 'x"; DROP TABLE cells; --', "a closed bracket": "x') ; COPY cells TO 'executed'; --",
        "a subquery": '(SELECT content FROM read_text("/etc/passwd"))', "a read of a file": "read_csv('/etc/passwd')",
        "attach": "'; ATTACH 'executed'; --", "a backslash": "\\", "a dollar quote": "$$x$$", "a parameter": "$1", "a question mark": "?",
    }  # fmt: skip
    cases = []
    for what, name in evil.items():
        quoted = json.dumps(name)
        cases += [
            Case("SQL in names", f"outcome: {what}", _set(f"data.outcome={{voted: {quoted}}}")),
            Case("SQL in names", f"id_column: {what}", _set(f"data.id_column={quoted}", "data.duplicates=error")),
            Case("SQL in names", f"source of a column: {what}", _set(f"data.columns.state={{source: {quoted}}}")),
            Case(
                "SQL in names", f"levels and markers: {what}",
                _set(f"data.columns.state={{levels: [AL, OH, WY, {quoted}], missing_values: [{quoted}]}}"), is_refused=False,
            ),
            Case("SQL in names", f"column of the file: {what}", _column_of_file(name), is_refused=False),
            Case("SQL in names", f"level: {what}", _level(name), is_refused=False),
        ]  # fmt: skip
    cases += [Case("SQL in names", f"file name: {what}", _file_name(name), is_refused=False) for what, name in evil.items()]
    return cases


def _column_of_file(name: str) -> Prepare:
    def prepare(folder: Path) -> list[str]:
        voters(folder, **{name: ["x"] * 200})
        quoted = json.dumps(name)
        return ["shard", str(folder / "run.yaml"), "--set", f"data.columns.female={{source: {quoted}, type: factor}}"]

    return prepare


def _level(name: str) -> Prepare:
    def prepare(folder: Path) -> list[str]:
        voters(folder, state=[name, "OH"] * 100)
        return ["shard", str(folder / "run.yaml")]

    return prepare


def _file_name(name: str) -> Prepare:
    def prepare(folder: Path) -> list[str]:
        file = name.replace("/", "_") + ".parquet"
        os.rename(folder / "voters" / "part-0.parquet", folder / "voters" / file)
        return ["shard", str(folder / "run.yaml")]

    return prepare


# ---- sources ----


def _sources() -> list[Case]:
    whole = ("state,female,voted\n" + "OH,1,1\nAL,0,0\n" * 50).encode()
    files: dict[str, tuple[str, Callable[[Path], bytes]]] = {
        "a pickle called Parquet": ("x.parquet", lambda folder: pickle.dumps(Payload(folder))),
        "a pickle called CSV": ("x.csv", lambda folder: pickle.dumps(Payload(folder))),
        "a gz of 256 MiB of one letter": ("x.csv.gz", lambda folder: _bomb(b"A" * (1 << 20), 256)),
        "a gz of 32 MiB of line ends": ("x.csv.gz", lambda folder: gzip.compress(b"state,female,voted\n") + _bomb(b"\n" * (1 << 20), 32)),
        "a gz of 64 MiB of quotes": ("x.csv.gz", lambda folder: gzip.compress(whole) + _bomb(b'"' * (1 << 20), 64)),
        "a gz cut in the middle": ("x.csv.gz", lambda folder: gzip.compress(whole * 50)[:-200]),
        "a gz in a gz": ("x.csv.gz", lambda folder: gzip.compress(gzip.compress(whole))),
        "half a Parquet": ("x.parquet", lambda folder: _parquet(folder)[:1500]),
        "Parquet with a footer of 2 GiB": ("x.parquet", lambda folder: b"PAR1" + bytes(64) + struct.pack("<i", 0x7FFFFFFF) + b"PAR1"),
        "Parquet with a negative footer": ("x.parquet", lambda folder: b"PAR1" + bytes(64) + struct.pack("<i", -5) + b"PAR1"),
        "Parquet with a footer of noise": ("x.parquet", lambda folder: b"PAR1" + os.urandom(4000) + struct.pack("<i", 4000) + b"PAR1"),
        "Parquet with a footer of zeros": ("x.parquet", lambda folder: b"PAR1" + bytes(4000) + struct.pack("<i", 4000) + b"PAR1"),
        "Parquet without rows": ("x.parquet", lambda folder: _parquet(folder, rows=0)),
        "30,000 columns in CSV": ("x.csv", lambda folder: ",".join(f"c{i}" for i in range(30_000)).encode() + b"\n1\n"),
        "a header of 20 MB": ("x.csv", lambda folder: b"a" * 20_000_000),
        "a CSV without a line end": ("x.csv", lambda folder: b"state"), "a CSV of NULs": ("x.csv", lambda folder: bytes(100_000)),
        "a CSV of noise": ("x.csv", lambda folder: os.urandom(100_000)), "an empty CSV": ("x.csv", lambda folder: b""),
        "names of columns twice": ("x.csv", lambda folder: b"state,state,voted,female\na,b,1,1\n"),
        "a CSV without its header": ("x.csv", lambda folder: f"ALA,1034567890,{SECRET},M,19510329\n".encode() * 3),
        "an ELF file": ("x.parquet", lambda folder: b"\x7fELF" + bytes(1000)), "HTML": ("x.csv", lambda folder: b"<html><script>1</script></html>\n"),
    }  # fmt: skip
    cases = [Case("sources", name, _source(*made), "quotes" not in name) for name, made in files.items()]
    cases += [
        Case("sources", "Parquet with 40 MB of metadata", _source("x.parquet", lambda f: _parquet(f, {b"x": b"y" * 40_000_000})), False),
        Case("sources", "Parquet with a pickled extension type", _source("x.parquet", _extension), False),
        Case("sources", "Parquet of 512 MiB of one value", _source("x.parquet", _wide_values), False),
        Case("sources", "a folder called Parquet", _folder_source), Case("sources", "a link to /etc/passwd", _link_source),
        Case("sources", "a link to itself", _loop_source), Case("sources", "a pipe", _pipe_source),
    ]  # fmt: skip
    return cases


def _source(name: str, content: Callable[[Path], bytes]) -> Prepare:
    def prepare(folder: Path) -> list[str]:
        data = content(folder)
        (folder / "voters" / "part-0.parquet").unlink()
        (folder / "voters" / name).write_bytes(data)
        return ["shard", str(folder / "run.yaml")]

    return prepare


def _bomb(block: bytes, times: int) -> bytes:
    return gzip.compress(block) * times  # members one after the other are one stream


def _parquet(folder: Path, metadata: dict[bytes, bytes] | None = None, rows: int = 200) -> bytes:
    table = pq.read_table(folder / "voters" / "part-0.parquet").slice(0, rows).replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def _extension(folder: Path) -> bytes:
    table = pq.read_table(folder / "voters" / "part-0.parquet")
    evil = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickle.dumps(Payload(folder))}
    fields = [field.with_metadata(evil) if field.name == "state" else field for field in table.schema]
    sink = pa.BufferOutputStream()
    pq.write_table(table.cast(pa.schema(fields)), sink)
    return sink.getvalue().to_pybytes()


def _wide_values(folder: Path) -> bytes:
    table = pa.table({"state": ["x" * (1 << 20)] * 512, "female": [0, 1] * 256, "voted": [1, 0] * 256})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def _folder_source(folder: Path) -> list[str]:
    (folder / "voters" / "part-0.parquet").unlink()
    (folder / "voters" / "part-0.parquet").mkdir()
    return ["shard", str(folder / "run.yaml")]


def _link_source(folder: Path) -> list[str]:
    (folder / "voters" / "part-0.parquet").unlink()
    (folder / "voters" / "part-0.csv").symlink_to("/etc/passwd")
    return ["shard", str(folder / "run.yaml")]


def _loop_source(folder: Path) -> list[str]:
    (folder / "voters" / "part-0.parquet").unlink()
    (folder / "voters" / "part-0.csv").symlink_to("part-0.csv")
    return ["shard", str(folder / "run.yaml")]


def _pipe_source(folder: Path) -> list[str]:
    (folder / "voters" / "part-0.parquet").unlink()
    os.mkfifo(folder / "voters" / "part-0.csv")
    return ["shard", str(folder / "run.yaml")]


def _settings() -> list[Case]:
    refused = [
        "data.delimiter=\"'\\n\"", "data.encoding=utf-8'; ATTACH 'executed", "data.encoding=rot13", "data.encoding=zip", "data.encoding=idna",
        "data.memory_limit=4GB'; ATTACH 'executed", "data.memory_limit=-1GB", "data.threads=-1", "data.threads=10000000000000000000", "name=../../x",
        "name=x/y", "name=-rf", "name=.hidden", "name=\"a\\nb\"", "run.executor=os.system('x')", "run.executor=ray://", "run.workers=0", "run.seed=-1",
        "fit.draws=10000000000", "shards.num_shards=99999999999", "__class__.x=1", "data.__init__=1", "model.family=os.system", "model.link=exec",
        "model.priors.b=__import__('os').system('touch executed')", "model.priors.sd=half_normal(exec('1'))", "model.priors.sd=normal(1e999)",
        "data.privacy.id_key_env=PATH; touch executed", "data.privacy.id_method=sha256", "poststratify.by=[../../x]", "poststratify.by=[\"a\\0b\"]",
        "poststratify.interval=nan", "a.b.c.d=1", "=1", "nothing",
    ]  # fmt: skip
    unused = ("data.encoding=idna", "fit.draws=10000000000")  # of no use to Parquet; too many to plan, not to shard
    return [Case("settings", f"--set {value}", _set(value), value not in unused) for value in refused]


# ---- run directories ----

FILES = (
    "manifest.json", "run.yaml", "dictionary.json", "shards/manifest.json", "shards/AL.parquet", "sites/rounds.json", "SITE",
    "posterior.nc", "summary.parquet", "audit.json", "estimates/state.parquet", "report.html", "quarantine/counts.json",
)  # fmt: skip


def _run_directories() -> list[Case]:
    cases = []
    for name in FILES:
        for what, attack in ATTACKS.items():
            is_refused = what.startswith(("a link", "a pipe"))
            cases.append(Case("run directories", f"{name}: {what}", _attacked(name, attack), is_refused, True))
    cases += [
        Case("run directories", "a folder of links", _linked_folder, True, True),
        Case("run directories", "the lock is a link", _linked_lock, True, True),
        Case("run directories", "coding.json of noise", _with_file("coding.json", b"\x80\x04noise"), False, True),
        Case("run directories", "an update that was never begun", _with_file("updating/plan.json", b"{}"), False, True),
        Case("run directories", "a partial file that is a link", _linked_partial, True, True),
    ]
    return cases


def _attacked(name: str, attack: Callable[[Path, Path], None]) -> Prepare:
    def prepare(folder: Path) -> list[str]:
        run = folder / "run"
        found = sorted((run / "sites").glob("AL*.arrow"))[0] if name == "SITE" else run / name
        content = found.read_bytes()
        attack(found, folder)
        if name != "manifest.json" and found.is_file():
            _forge(run, str(found.relative_to(run)), content)
        draws = ["--set", "audit.draws=101"] if name not in ("report.html", "audit.json") else []
        return ["run", str(folder / "run.yaml"), *draws]

    return prepare


def _forge(run: Path, name: str, before: bytes) -> None:
    """Enter the checksum of a changed file wherever that of the old one stands."""
    old, new = sha256(before).hexdigest(), sha256((run / name).read_bytes()).hexdigest()
    for file in ("shards/manifest.json", "manifest.json"):
        path = run / file
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            if old.encode() in content and file != name:
                path.write_bytes(content.replace(old.encode(), new.encode()))
                if file != "manifest.json":
                    _forge(run, file, content)


def _replace(content: Callable[[Path, bytes], bytes]) -> Callable[[Path, Path], None]:
    return lambda file, folder: file.write_bytes(content(folder, file.read_bytes())) and None


def _link(target: str) -> Callable[[Path, Path], None]:
    def attack(file: Path, folder: Path) -> None:
        outside = folder / "outside"
        outside.write_bytes(file.read_bytes() if target == "same" else SECRET.encode())
        file.unlink()
        file.symlink_to("/etc/passwd" if target == "passwd" else outside)

    return attack


def _pipe(file: Path, folder: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _sparse(file: Path, folder: Path) -> None:
    with file.open("r+b") as opened:
        opened.truncate(3 << 30)


ATTACKS: dict[str, Callable[[Path, Path], None]] = {
    "a pickle": _replace(lambda folder, old: pickle.dumps(Payload(folder))),
    "noise": _replace(lambda folder, old: os.urandom(2000)),
    "empty": _replace(lambda folder, old: b""),
    "a link to the same bytes": _link("same"),
    "a link to /etc/passwd": _link("passwd"),
    "a pipe": _pipe,
}


def _linked_folder(folder: Path) -> list[str]:
    os.rename(folder / "run" / "sites", folder / "elsewhere")
    (folder / "run" / "sites").symlink_to(folder / "elsewhere")
    return ["run", str(folder / "run.yaml")]


def _linked_lock(folder: Path) -> list[str]:
    (folder / "outside").write_text("keep me")
    (folder / "run" / ".lock").unlink(missing_ok=True)
    (folder / "run" / ".lock").symlink_to(folder / "outside")
    return ["run", str(folder / "run.yaml")]


def _linked_partial(folder: Path) -> list[str]:
    (folder / "outside").write_text("keep me")
    (folder / "run" / ".x.partial").symlink_to(folder / "outside")
    return ["run", str(folder / "run.yaml")]


def _with_file(name: str, content: bytes) -> Prepare:
    def prepare(folder: Path) -> list[str]:
        (folder / "run" / name).parent.mkdir(exist_ok=True)
        (folder / "run" / name).write_bytes(content)
        return ["run", str(folder / "run.yaml")]

    return prepare


def _manifests() -> list[Case]:
    def shard(key: str, value: object) -> Prepare:
        def prepare(folder: Path) -> list[str]:
            run = folder / "run"
            path = run / "shards" / "manifest.json"
            before = path.read_bytes()
            manifest = json.loads(before)
            manifest["shards"][0][key] = value
            path.write_text(json.dumps(manifest))
            _forge(run, "shards/manifest.json", before)
            return ["audit", str(folder / "run.yaml"), "--set", "audit.draws=101"]

        return prepare

    def whole(change: Callable[[dict], object]) -> Prepare:  # type: ignore[type-arg]
        def prepare(folder: Path) -> list[str]:
            path = folder / "run" / "manifest.json"
            manifest = json.loads(path.read_text())
            change(manifest)
            path.write_text(json.dumps(manifest))
            return ["run", str(folder / "run.yaml")]

        return prepare

    paths = ["../../../etc/passwd", "/etc/passwd", "shards/../../x", "shards/./AL.parquet", "", "a\0b", "shards\\AL.parquet",
             "file:///etc/passwd", "s3://x/y", "shards/OH.parquet", "\uff0e\uff0e/x", 5, None, ["shards/AL.parquet"]]  # fmt: skip
    cases = [Case("manifests", f"path of a shard {value!r}", shard("path", value), True, True) for value in paths]
    numbers: list[object] = [-1, 10**30, 1e300, "many", None, [1], {}]
    cases += [
        Case("manifests", f"{key} {value!r}", shard(key, value), False, True)
        for key in ("num_cells", "num_trials") for value in numbers
    ]  # fmt: skip
    cases += [Case("manifests", f"shard_id {v!r}", shard("shard_id", v), False, True) for v in ("../../x", "", None, "<script>")]
    cases += [Case("manifests", f"sha256 {v!r}", shard("sha256", v), True, True) for v in ("0" * 64, "", None, 7)]
    changes: dict[str, Callable[[dict], object]] = {  # type: ignore[type-arg]
        "schema_version 2": lambda m: m.update(schema_version=2), "schema_version '1'": lambda m: m.update(schema_version="1"),
        "schema_version missing": lambda m: m.pop("schema_version"), "stages a list": lambda m: m.update(stages=[]),
        "stages missing": lambda m: m.pop("stages"), "identity null": lambda m: m.update(identity=None),
        "identity of another run": lambda m: m["identity"].update(name="other"),
        "a stage without key": lambda m: m["stages"]["fit"].pop("key"),
        "a stage with more keys": lambda m: m["stages"]["fit"].update(extra=1),
        "files of a stage a list": lambda m: m["stages"]["fit"].update(files=[1]),
        "a file of a stage outside": lambda m: m["stages"]["fit"]["files"].update({"../outside": "0" * 64}),
        "an absolute file of a stage": lambda m: m["stages"]["fit"]["files"].update({"/etc/passwd": "0" * 64}),
        "the truth elsewhere": lambda m: m.update(truth="../../../../etc"),
        "an unknown stage": lambda m: m["stages"].update(evil=m["stages"]["fit"]),
        "nested 10,000 deep": lambda m: m.update(priors=None),
    }  # fmt: skip
    harmless = {"a file of a stage outside", "an absolute file of a stage", "the truth elsewhere", "an unknown stage", "nested 10,000 deep", "identity null"}
    for name, change in changes.items():
        prepare = _deep_manifest if name.startswith("nested") else whole(change)
        cases.append(Case("manifests", name, prepare, name not in harmless, True))
    return cases


def _deep_manifest(folder: Path) -> list[str]:
    (folder / "run" / "manifest.json").write_text('{"schema_version": 1, "stages": ' + "[" * 100_000 + "]" * 100_000 + "}")
    return ["run", str(folder / "run.yaml")]

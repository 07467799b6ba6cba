"""A real Prometheus watches two runs on a Ray cluster: what does each query of the dashboard and each alarm find?

    python -m benchmarks.monitoring [--rows 100000] [--write]

Needs `prometheus` and `promtool` (Debian: prometheus), and for runs that leave a file `prometheus-node-exporter`; all as programs, no
services. Prometheus gets `deploy/monitoring/` as it is, with these changes: the addresses are those of here, node-exporter is added, and what
asks Kubernetes is left out, where there is none. One run answers at an address, one writes a file; both fit on one cluster. Queries are
evaluated by Prometheus over the time of the runs, so that a series counts that was there at any moment. ``--write`` puts the table into
`docs/deploy.md`. Code 3 if a query is refused or finds nothing, where nothing explains it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmarks import family_page, ray_clusters
from benchmarks.problems import REPOSITORY
from benchmarks.races import CAUCUS
from cluster.metrics import ADDRESS_VARIABLE, DIRECTORY_VARIABLE

FOLDER = REPOSITORY / "deploy" / "monitoring"
RUNS = ("by-address", "by-file")
EXPORTER = "prometheus-node-exporter"


@dataclass(frozen=True)
class Query:
    """A question to Prometheus, and whether a run that goes well answers it with series."""

    what: str
    expression: str
    is_alarm: bool = False


def queries() -> list[Query]:
    """Those of the dashboard, the list of its variable first, and those of the alarms."""
    dashboard = json.loads((FOLDER / "dashboard.json").read_text())
    found = [
        Query(f"variable: {variable['label']}", variable["query"]["query"])
        for variable in dashboard["templating"]["list"] if variable["type"] == "query"
    ]  # fmt: skip
    found += [
        Query(f"panel: {panel['title']}", target["expr"]) for panel in dashboard["panels"] for target in panel["targets"]
    ]
    rules = YAML(typ="safe", pure=True).load((FOLDER / "alerts.yaml").read_text())
    return found + [
        Query(f"alarm: {rule['alert']}", rule["expr"], True) for group in rules["groups"] for rule in group["rules"]
    ]


@dataclass
class Prometheus:
    """A server that answers at ``url``."""

    url: str

    def ask(self, path: str, **parameters: str) -> Any:
        """Return ``data`` of an answer; `ValueError` with Prometheus' words where it refuses the query."""
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(json.load(error)["error"]) from None

    def series(self, query: Query, run: str, begin: float, end: float) -> int:
        """How many series of this run the query finds in that time."""
        name, _, rest = query.expression.partition("(")
        if name == "label_values":  # Grafana's own, for the list of a variable
            metric, label = (part.strip() for part in rest.rstrip(")").split(","))
            values = self.ask(f"label/{label}/values", **{"match[]": metric}, start=str(begin), end=str(end))
            return values.count(run)
        expression = query.expression.replace("$run", run)
        answer = self.ask("query_range", query=expression, start=str(begin), end=str(end), step="1")
        return sum(series["metric"].get("run") == run for series in answer["result"])


@contextmanager
def program(command: list[str], folder: Path, url: str) -> Iterator[None]:
    """Run a server until the block ends; it has to answer at ``url`` first."""
    log = folder / f"{Path(command[0]).name}.log"
    with log.open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, cwd=folder)
    try:
        deadline = time.monotonic() + 60
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} does not answer at {url}. It said:\n{log.read_text()}")
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True


def configuration(folder: Path, port: int, exporter: int | None, of_ray: int) -> tuple[Path, list[str]]:
    """Copy ours with the addresses of here; return the file, and the jobs that were left out."""
    config = YAML(typ="safe", pure=True).load((FOLDER / "prometheus.yaml").read_text())
    jobs = config["scrape_configs"]
    left_out = [job["job_name"] for job in jobs if "kubernetes_sd_configs" in job]
    kept = [job for job in jobs if job["job_name"] not in left_out]
    (ours,) = kept
    ours["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    others = {"ray": of_ray} | ({"node": exporter} if exporter else {})
    kept += [
        {"job_name": name, "scrape_interval": ours["scrape_interval"], "static_configs": [{"targets": [f"127.0.0.1:{at}"]}]}
        for name, at in others.items()
    ]
    shutil.copy(FOLDER / "alerts.yaml", folder)
    file = folder / "prometheus.yaml"
    with file.open("w") as stream:
        YAML(typ="safe", pure=True).dump({**config, "scrape_configs": kept}, stream)
    return file, left_out


def checked(*arguments: str | Path) -> None:
    """Run `promtool`; its words are the error if it refuses."""
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"promtool {' '.join(map(str, arguments))}:\n{done.stdout}{done.stderr}")


def ray_metrics_port(head: ray_clusters.Node) -> int:
    """Where the node gives Ray's own metrics."""
    option = "--metrics-export-port="
    (found,) = (argument for argument in map(str, head.process.args) if argument.startswith(option))
    return int(found.removeprefix(option))


def fit(folder: Path, run: str, address: str, environment: dict[str, str]) -> str:
    """Do a whole run on the cluster; return its verdict."""
    settings = {"name": run, "run.directory": f"runs/{run}", "run.executor": address}
    options = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    command = [CAUCUS, "run", str(folder / "nation" / "nation-turnout.yaml"), *options]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3):
        raise RuntimeError(f"{' '.join(command)} ended with code {done.returncode}. It said:\n{done.stderr}")
    return str(json.loads((folder / "nation" / "runs" / run / "audit.json").read_text())["verdict"])


def table(server: Prometheus, runs: dict[str, tuple[float, float]]) -> tuple[list[str], bool]:
    """Lines of the table, and whether every query finds what it should: alarms nothing, panels something."""
    lines = ["| what | query | " + " | ".join(f"series, {run}" for run in runs) + " |", "|---|---|" + "---|" * len(runs)]
    is_good = True
    for query in queries():
        cells = []
        for run, (begin, end) in runs.items():
            try:
                number = server.series(query, run, begin, end)
            except ValueError as refused:
                cells.append(f"refused: {refused}")
                is_good = False
                continue
            cells.append(str(number))
            is_good &= (number == 0) is query.is_alarm
        expression = query.expression.replace("|", "\\|")
        lines.append(f"| {query.what} | `{expression}` | {' | '.join(cells)} |")
    return lines, is_good


def watch(folder: Path, num_rows: int) -> tuple[list[str], bool]:
    """Do it all; return the table, with what Prometheus says of its targets and rules below it, and whether all is good."""
    subprocess.run([CAUCUS, "init", "nation", "--rows", str(num_rows)], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    textfiles = folder / "textfiles"
    textfiles.mkdir()
    port, at, exporter = ray_clusters.ports(3)
    has_exporter = shutil.which(EXPORTER) is not None
    with ray_clusters.head() as head:
        config, left_out = configuration(folder, port, exporter if has_exporter else None, ray_metrics_port(head))
        checked("check", "rules", FOLDER / "alerts.yaml")
        checked("test", "rules", FOLDER / "alerts_test.yaml")
        checked("check", "config", config)
        url = f"http://127.0.0.1:{at}"
        command = [
            "prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{at}",
        ]  # fmt: skip
        environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": ray_clusters.TOKEN}
        own = {RUNS[0]: {ADDRESS_VARIABLE: str(port)}, RUNS[1]: {DIRECTORY_VARIABLE: str(textfiles)}}
        runs, verdicts, server = {}, {}, Prometheus(url)
        with program(command, folder, f"{url}/-/ready"):
            for run in RUNS if has_exporter else RUNS[:1]:
                begin = time.time()
                if run == RUNS[1]:
                    listen = f"--web.listen-address=127.0.0.1:{exporter}"
                    collect = [EXPORTER, f"--collector.textfile.directory={textfiles}", listen]
                    with program(collect, folder, f"http://127.0.0.1:{exporter}/metrics"):
                        verdicts[run] = fit(folder, run, head.address, environment | own[run])
                        time.sleep(25)  # the file is scraped every ten seconds, after the run too
                else:
                    verdicts[run] = fit(folder, run, head.address, environment | own[run])
                runs[run] = (begin, time.time())
            lines, is_good = table(server, runs)
            rules = [rule for group in server.ask("rules")["groups"] for rule in group["rules"]]
            targets = server.ask("targets")["activeTargets"]
            of_ray = server.ask("series", **{"match[]": '{job="ray"}'})
    version = subprocess.run(["prometheus", "--version"], capture_output=True, text=True, check=True)
    said = (version.stdout or version.stderr).split()[2]
    well = [rule["name"] for rule in rules if rule["health"] == "ok"]
    lines += [
        "",
        f"Prometheus {said}; runs of {num_rows:,} rows, {', '.join(f'{run}: {end - begin:.0f} s, {verdicts[run]}' for run, (begin, end) in runs.items())}. "
        f"{len(well)} of {len(rules)} rules evaluate without an error; targets: "
        f"{', '.join(sorted({target['labels']['job'] for target in targets}))}; left out: {', '.join(left_out) or 'none'}. "
        f"The node of Ray, which demands a token, gives {len(of_ray):,} series of its own without one.",
    ]
    return lines, is_good and len(well) == len(rules) and bool(of_ray)


def main() -> int:
    """Watch, print, and write if told so."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.monitoring", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--write", action="store_true", help="put the table into docs/deploy.md")
    arguments = parser.parse_args()
    for name in ("prometheus", "promtool"):
        if shutil.which(name) is None:
            parser.error(f"no program {name!r} on the path; on Debian: apt-get install prometheus")
    with tempfile.TemporaryDirectory(prefix="monitoring-") as folder:
        lines, is_good = watch(Path(folder), arguments.rows)
    print("\n".join(lines))
    if arguments.write:
        family_page.write("monitoring", lines, REPOSITORY / "docs" / "deploy.md")
    return 0 if is_good else 3


if __name__ == "__main__":
    raise SystemExit(main())

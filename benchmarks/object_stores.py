"""Whole runs on emulators of S3, GCS and Azure, and what these stores must guarantee: ``python -m benchmarks.object_stores [s3 | gcs | azure ...]``.

Sources and run directory are on the store. Compared are the bytes of every file with numbers with those of the same run on a local
disk. Writes the table of docs/object-stores.md. An emulator that is not installed is left out, and it is said how to install it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import emulators, family_page, faults, ray_clusters
from benchmarks.emulators import NotInstalledError, Store
from sharding import storage

PAGE = ray_clusters.ROOT / "docs" / "object-stores.md"
WRITERS, NAMES = 6, 50
PUT_MIB = 200
WITHIN = 300.0


class Checked:
    """A store with the undisturbed run that everything is compared with; each check returns what it found, and asserts the rest."""

    def __init__(self, store: Store, folder: Path, expected: dict[str, str]):
        self.store, self.folder, self.expected = store, folder, expected
        for name in storage.names_below(str(folder), "voters"):
            storage.copy(str(folder / name), f"{store.bucket}/{name}")

    def trial(self, name: str, *settings: str) -> faults.Trial:
        """A run whose sources and directory are on the store."""
        trial = faults.new_trial(self.folder, f"{self.store.scheme}-{name}")
        trial.directory = f"{self.store.bucket}/turnout/{name}"
        trial.settings = [f"data.source={self.store.bucket}/voters/*.parquet", *settings]
        return trial

    def same(self, trial: faults.Trial) -> str:
        """That every file with numbers is the same."""
        found = faults.numbers(trial.directory)
        differ = sorted(n for n in {*self.expected, *found} if self.expected.get(n) != found.get(n))
        assert not differ, differ
        left = {".lock"} & storage.children(trial.directory)
        assert not left, "the lease was not given back"
        return f"{len(found)} files, 0 differ"

    def whole(self) -> str:
        """From the command to the report."""
        trial, began = self.trial("whole", "run.executor=serial"), time.monotonic()
        trial.faults = {"slow": 0.0}
        trial.finish()
        seconds = time.monotonic() - began
        assert storage.exists(f"{trial.directory}/report.html")
        trial.finish()
        assert "everything is done already" in trial.text()
        return f"{self.same(trial)} ({seconds:.0f} s); run again: nothing redone"

    def killed(self) -> str:
        """The driver is killed in the second round, with its workers on Ray, and the command is given again."""
        trial = self.trial("killed", "run.executor=ray", "run.workers=2")
        process = trial.start()
        trial.wait_for(lambda: trial.sites(1) >= 5, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        sites = trial.sites(1)
        trial.finish()
        assert "another driver holds the run directory, or died" in trial.text()
        return f"{self.same(trial)}; {sites} of 51 sites of the round were there"

    def second(self) -> str:
        """Another driver comes while one is at work."""
        trial = self.trial("second", "run.executor=serial")
        first = trial.start()
        trial.wait_for(lambda: trial.sites(0) >= 3, first)
        before = time.monotonic()
        code = trial.end(trial.start())
        waited = time.monotonic() - before
        assert (code, first.poll()) == (4, None), trial.text()
        assert "is at work in it" in trial.text()
        assert trial.end(first) == 0, trial.text()
        return f"exit code {code} after {waited:.0f} s, the first undisturbed: {self.same(trial)}"

    def conditional(self) -> str:
        """Several processes create the same names at once."""
        url = f"{self.store.bucket}/created"
        start = str(time.time() + 8.0)
        command = [sys.executable, "-m", "benchmarks.object_stores", "create", url, start]
        processes = [
            subprocess.Popen([*command, str(who)], stdout=subprocess.PIPE, text=True, cwd=ray_clusters.ROOT) for who in range(WRITERS)
        ]
        won = {str(who): process.communicate(timeout=WITHIN)[0].split() for who, process in enumerate(processes)}
        assert all(process.returncode == 0 for process in processes)
        everything = [name for names in won.values() for name in names]
        assert sorted(everything) == sorted(map(str, range(NAMES))), "a name was created twice, or not at all"
        for who, names in won.items():
            assert all(storage.read_bytes(f"{url}/{name}") == who.encode() * 1000 for name in names)
        each = "/".join(str(len(names)) for names in won.values())
        return f"{NAMES} names, {WRITERS} processes: each created once ({each})"

    def partial(self) -> str:
        """A large file is put while somebody looks, then again by a writer that is killed half-way."""
        sizes: set[int] = set()
        looks, ends = 0, threading.Event()
        url = f"{self.store.bucket}/large"
        seconds = self._put(url, None)
        storage.remove(url)

        def look() -> None:
            nonlocal looks
            while not ends.is_set():
                if storage.exists(url):
                    sizes.add(storage.fingerprint(url)["num_bytes"])
                looks += 1

        thread = threading.Thread(target=look)
        thread.start()
        self._put(url, seconds / 2)
        ends.set()
        thread.join()
        assert not sizes, sizes
        assert "large" not in storage.children(self.store.bucket)
        ends.clear()
        thread = threading.Thread(target=look)
        thread.start()
        self._put(url, None)
        ends.set()
        thread.join()
        assert sizes <= {PUT_MIB << 20}, sizes
        storage.remove(url)
        return f"{PUT_MIB} MiB: of a put killed half-way nothing, of a whole one nothing or all of it ({looks} looks)"

    def _put(self, url: str, killed_after: float | None) -> float:
        command = [sys.executable, "-m", "benchmarks.object_stores", "put", url]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ray_clusters.ROOT)
        assert process.stdout is not None
        assert process.stdout.readline() == "puts\n"
        began = time.monotonic()
        if killed_after is not None:
            time.sleep(killed_after)
            assert process.poll() is None, "it was done already"
            process.kill()
        process.wait(WITHIN)
        assert killed_after is not None or process.returncode == 0
        return time.monotonic() - began

    def refusals(self) -> str:
        """A bucket that is not there, no permission, a package that is not installed."""
        missing = self._refused("no such bucket or container", f"{self.store.scheme}://not-there/run", {})
        found = [f"no bucket: {missing}"]
        if self.store.refused_url:
            url = f"{self.store.refused_url}/run"
            found.append(f"no permission: {self._refused('no permission, or no credentials', url, self.store.refused_env)}")
        absent = f"import sys; sys.modules[{self.store.package!r}] = None; "
        told = self._refused("whose package is not installed", f"{self.store.bucket}/run", {}, absent)
        return ", ".join([*found, f"no {self.store.package}: {told}"])

    def _refused(self, message: str, url: str, env: dict[str, str], before: str = "") -> int:
        trial = self.trial(f"refused-{abs(hash((message, url)))}")
        command = [sys.executable, "-c", f"{before}from cluster.cli import main; main()", "run", str(trial.folder / "run.yaml")]
        said = subprocess.run(
            [*command, "--set", f"run.directory={url}"], env={**os.environ, **env}, capture_output=True, text=True, timeout=WITHIN
        )
        assert message in said.stderr, said.stderr
        assert "Traceback" not in said.stderr, said.stderr
        return said.returncode


CHECKS: dict[str, tuple[str, Callable[[Checked], str]]] = {
    "whole": ("whole run, sources and directory there", Checked.whole),
    "killed": ("driver SIGKILL in the fit, run again", Checked.killed),
    "second": ("a second driver meanwhile", Checked.second),
    "conditional": ("created by several at once", Checked.conditional),
    "partial": ("partial files seen", Checked.partial),
    "refusals": ("exit codes", Checked.refusals),
}


def create(url: str, start: str, who: str) -> None:
    """Of a child process: create every name at the same moment as others do, and print those that it got."""
    storage.exists(url)  # the client is made before
    for name in range(NAMES):
        time.sleep(max(0.0, float(start) + 0.1 * name - time.time()))
        if storage.create_bytes(f"{url}/{name}", who.encode() * 1000):
            print(name)


def put(url: str) -> None:
    """Of a child process: publish a large file."""
    storage.exists(url)
    with storage.publishing(url) as file:
        for _ in range(PUT_MIB):
            file.write(os.urandom(1 << 20))
        print("puts", flush=True)


def main() -> None:
    """Check the stores that are named, or all, and write the table."""
    if sys.argv[1:2] in (["create"], ["put"]):
        {"create": create, "put": put}[sys.argv[1]](*sys.argv[2:])
        return
    names = [name for name in sys.argv[1:] if name in emulators.STORES] or list(emulators.STORES)
    only = [name for name in sys.argv[1:] if name in CHECKS] or list(CHECKS)
    rows = {CHECKS[name][0]: [CHECKS[name][0]] for name in only}
    heads = []
    with tempfile.TemporaryDirectory(prefix="caucus-stores-") as folder:
        expected = faults.nation(Path(folder))
        for name in names:
            try:
                with emulators.running(name) as store:
                    heads.append(f"{store.name} ({store.package}, {store.server})")
                    checked = Checked(store, Path(folder), expected)
                    for check in only:
                        told, function = CHECKS[check]
                        rows[told].append(function(checked))
                        print(f"{store.name}: {told}: {rows[told][-1]}", flush=True)
            except NotInstalledError as error:
                print(f"left out {name}: {error}", flush=True)
    table = [f"| | {' | '.join(heads)} |", "|---|" + "---|" * len(heads), *(f"| {' | '.join(row)} |" for row in rows.values())]
    print("\n".join(table))
    if set(names) == set(emulators.STORES) and set(only) == set(CHECKS) and len(heads) == len(names):
        family_page.write("object-stores", table, PAGE)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # its servers end with it
    main()

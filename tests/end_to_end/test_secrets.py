"""A URL with a secret is refused wherever a URL may stand: nothing of it is written, nothing shown."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "sharding"))
import line
from test_credentials import SECRET, WITH


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("secrets")
    line.make(folder)
    return folder


PLACES = {
    "data.source": ["data.source={url}"],
    "one of several sources": ["data.source=['voters/*', {url}]"],
    "poststratify.frame": ["poststratify.frame={url}", "poststratify.count=n"],
    "run.directory": ["run.directory={url}"],
    "data.layout": ["data.layout={url}"],
    "run.executor": ["run.executor={url}"],
    "neighbours of a prior": ["model.priors.1|state={{structure: icar, neighbours: {url}}}"],
}


@pytest.mark.parametrize("place", PLACES)
def test_no_secret_is_written_or_shown(place: str, folder: Path):
    for kind, url in WITH.items():
        quoted = f'"{url}"'
        settings = [argument for setting in PLACES[place] for argument in ("--set", setting.format(url=quoted))]
        for command in ("validate", "run"):
            said = line.caucus(command, folder / "run.yaml", *settings)
            assert said.code == 2, (kind, said)
            assert SECRET not in said.out + said.err, (kind, said)
            assert "secret" in said.message, (kind, said)
    assert not [file for file in folder.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()]


def test_no_secret_of_the_file_itself_is_shown(folder: Path):
    for kind, url in WITH.items():
        (folder / "bad.yaml").write_text(line.CONFIG.replace('"voters/*"', f'"{url}"'))
        said = line.caucus("run", folder / "bad.yaml", "--debug")
        assert said.code == 2, (kind, said)
        assert SECRET not in said.out + said.err, (kind, said)
        (folder / "bad.yaml").unlink()
        for command in (["run", url], ["compare", url, url], ["status", folder / "run.yaml", "--address", url]):
            said = line.caucus(*command)
            assert said.code in (2, 4), (kind, command, said)
            assert SECRET not in said.out + said.err, (kind, command, said)

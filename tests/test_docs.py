"""What the documentation says exists and runs: its Python, its commands, its links, its keys."""

import ast
import importlib.util
import re
import subprocess
from pathlib import Path

import pytest
import typer

from cluster import cli, code_version, config

ROOT = Path(__file__).resolve().parent.parent
TRACKED = subprocess.run(
    ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
    check=False, capture_output=True, text=True,
).stdout.split()  # fmt: skip
PAGES = sorted({path for path in TRACKED if (ROOT / path).is_file()} or {"README.md", "CONTRIBUTING.md"})
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return [body for kind, body in FENCE.findall(text_of(page)) if kind == language]


def anchors(page: str) -> set[str]:
    """Anchors as GitHub makes them from headings, and those written as ``<a id=...>``."""
    plain = FENCE.sub("", text_of(page))
    headings = re.findall(r"^#+ (.+)$", plain, re.MULTILINE)
    made = {re.sub(r"[^\w\- ]", "", re.sub(r"`", "", h)).strip().lower().replace(" ", "-") for h in headings}
    return made | set(re.findall(r'<a id="([^"]+)">', plain))


def test_no_page_and_no_message_installs_the_other_project_of_this_name():
    """`caucus` on PyPI belongs to somebody else; `pip install 'caucus[s3]'` would fetch that."""
    tracked = subprocess.run(["git", "-C", str(ROOT), "ls-files"], check=True, capture_output=True, text=True).stdout.split()
    texts = {name: (ROOT / name).read_text(errors="replace") for name in tracked if (ROOT / name).is_file() and "test_docs" not in name}
    assert not [name for name, text in texts.items() if re.search(r"""pip install[^\n]*['" ]caucus(\[|['"` ])""", text)]
    assert code_version.version()


def generator():
    spec = importlib.util.spec_from_file_location("generate_yaml", ROOT / "docs" / "generate_yaml.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_are_found():
    assert {"README.md", "CONTRIBUTING.md", "docs/yaml.md", "docs/python.md"} <= set(PAGES)


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_python_of_the_page_runs(page, capsys):
    found = blocks(page, "python")
    assert found
    namespace: dict = {"__name__": "page"}
    for number, body in enumerate(found):
        exec(compile(body, f"{page}[{number}]", "exec"), namespace)  # noqa: S102  # our own page
    assert re.search(r"^(pass|warn) ", capsys.readouterr().out, re.MULTILINE)


def test_yaml_of_the_readme_is_a_valid_config(tmp_path):
    (body,) = blocks("README.md", "yaml")
    (tmp_path / "run.yaml").write_text(body)
    assert config.load(tmp_path / "run.yaml").config.name == "turnout-2024"


def test_keys_are_those_of_the_schema():
    page = text_of("docs/yaml.md")
    assert generator().written(page) == page, "run `python docs/generate_yaml.py`"


def test_every_section_of_the_config_has_its_table():
    made = generator()
    documented = {key for section in made.SECTIONS for key in made.keys(section)}
    sections = {key.partition(".")[0] for key in documented}
    assert sections == set(config.RunConfig.model_fields)
    written = set(re.findall(r"^\| `([^`]+)` \|", text_of("docs/yaml.md"), re.MULTILINE))
    assert written == documented


def code_of(page: str) -> str:
    """What a person could type: indented and fenced blocks, and text in backticks."""
    text = text_of(page)
    indented = re.findall(r"^ {4}\S.*$", text, re.MULTILINE)
    fenced = [body for kind, body in FENCE.findall(text) if kind in ("", "sh", "bash")]
    inline = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", FENCE.sub("", text))
    return "\n".join([*(line.strip() for line in indented), *fenced, *inline])


@pytest.mark.parametrize("page", PAGES)
def test_commands_named_exist(page):
    known = set(typer.main.get_command(cli.app).commands)
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    code = code_of(page)
    absent = {"submit"} if page == "deploy/README.md" else set()  # said to be absent
    assert set(re.findall(r"^caucus ([a-z]+)", code, re.MULTILINE)) <= known | absent
    assert set(re.findall(r"^make ([a-z-]+)", code, re.MULTILINE)) <= targets
    for script in re.findall(r"^(?:\S*/)?python (\S+\.py)", code, re.MULTILINE):
        assert (ROOT / script).is_file(), script
    for module in re.findall(r"^(?:\S*/)?python -m (benchmarks[\w.]*)", code, re.MULTILINE):
        assert importlib.util.find_spec(module) is not None, module


@pytest.mark.parametrize("page", PAGES)
def test_links_of_the_repository_resolve(page):
    for target in LINK.findall(FENCE.sub("", text_of(page))):
        if re.match(r"[a-z]+://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), f"{page} links to {target}"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(str(file.resolve().relative_to(ROOT))), f"{page} links to {target}"


@pytest.mark.parametrize("page", PAGES)
def test_pages_stay_inside_the_repository(page):
    assert not re.search(r"\.\./shared|(?<![\w.])/(?:work|root|home)/", text_of(page))


def without_docstring(body: list[ast.stmt], prefix: str) -> list[str]:
    """Public functions, classes and methods that say nothing of themselves."""
    found = []
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            found += [] if ast.get_docstring(node) else [f"{prefix}{node.name}"]
            found += without_docstring(node.body, f"{prefix}{node.name}.") if isinstance(node, ast.ClassDef) else []
    return found


def test_every_public_name_of_the_mathematics_says_what_it_is():
    modules = sorted((ROOT / "fitting").rglob("*.py"))
    silent = []
    for file in modules:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        name = str(file.relative_to(ROOT))
        silent += [] if ast.get_docstring(tree) else [name]
        silent += without_docstring(tree.body, f"{name}: ")
    assert len(modules) > 50
    assert silent == []


def test_the_tests_that_the_page_of_attacks_names_exist():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text_of("docs/attacks.md"))
    assert len(named) > 15
    assert [name for file, name in named if f"def {name}(" not in (ROOT / file).read_text()] == []

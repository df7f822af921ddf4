"""Commands, Python and links of the pages: options, configurations, fields and names exist."""

import ast
import inspect
import pathlib
import re

import pytest

import pav_jax as pav
from pav_jax import config as configuration
from pav_jax.config_overrides import split_overrides
from pav_jax.main import parser
from tests.docs import blocks as documents
from tests.docs.blocks import ROOT, Block, anchors, commands, links, pages

PAGES = pages()
BLOCKS = [block for page in PAGES for block in documents.blocks(page)]
NEEDS = {"a TPU", "a GPU", "weights", "network", "another server"}
# written by docs/hooks/reference.py
GENERATED = {
    f"docs/reference/{name}.md" for name in ("commands", "configuration", "configurations")
}
# what a command needs, by its words
TPU = re.compile(r"launch/.*|gcloud")
NETWORK = re.compile(r"pip|curl|git")
SERVERS = re.compile(r"vllm|ollama|llama-server|sgl_jax.launch_server|--upstream=.*")
WEIGHTS = re.compile(
    r"(?!--base-model|.*(mini:|runs/|adapters/|http:)).*(\.pth|=(diffusers:)?[A-Z][\w-]+/[\w.-]+)$"
)
LARGE = re.compile(r"--config=(configs/)?(cogvideox|gemma|llama|opensora|qwen|rewards|t2i|wan).*")
# pages whose text says in words what a command needs
IN_WORDS = {
    "README.md",
    "CONTRIBUTING.md",
    "launch/README.md",
    "docs/guides/adapters.md",
    "docs/guides/serve.md",
}


def check_pav(words: list[str]) -> None:
    """Parse the arguments of `pav`, and load the configuration with its overrides."""
    words, overrides = split_overrides(words)
    arguments, unknown = parser().parse_known_args(words)
    assert not unknown
    if overrides or getattr(arguments, "config", None):
        name = getattr(arguments, "config", None)
        is_own = name is not None and pathlib.Path(name).name.startswith("my_")
        configuration.load(None if is_own else name, overrides)


def check_command(words: list[str]) -> None:
    """Check a command as far as that is possible without running it."""
    if "pav" in words:
        check_pav(words[words.index("pav") + 1 :])
    elif words[0].startswith("--config."):
        configuration.load(None, words)
    for word in words:
        if re.fullmatch(r"(benchmarks|examples|launch|tests)/[\w/]+\.(py|sh)", word):
            assert (ROOT / word).is_file(), word


@pytest.mark.parametrize(
    "block", [b for b in BLOCKS if b.language == "bash"], ids=lambda b: b.place
)
def test_bash_block_parses(block, monkeypatch):
    monkeypatch.chdir(ROOT)
    for words in commands(block.text):
        check_command(words)


def test_examples_of_help_parse(monkeypatch):
    monkeypatch.chdir(ROOT)
    (subparsers,) = (action for action in parser()._actions if action.dest == "command")
    for command in subparsers.choices.values():
        examples = command.epilog.partition("examples:\n")[2]
        text = re.sub(r"(\S)\s{3,}\S.*", r"\1", examples)
        assert all(check_pav(words[1:]) is None for words in commands(text) if words[0] == "pav")


def required_needs(block: Block) -> set[str]:
    """What the commands of a block need, as far as their words tell."""
    needs = set()
    for words in commands(block.text):
        text = " ".join(words)
        is_preflight = "pav check" in text
        rules = ((TPU, "a TPU"), (NETWORK, "network"), (SERVERS, "another server"))
        needs |= {name for rule, name in rules if any(map(rule.fullmatch, words))}
        if not is_preflight and any(LARGE.match(w) or WEIGHTS.match(w) for w in words):
            needs.add("weights")
    return needs - ({"network"} if "localhost" in block.text else set())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_says_what_blocks_need(page):
    for block in documents.blocks(page):
        assert set(block.needs) <= NEEDS, block.place
        if block.language == "bash" and str(page.relative_to(ROOT)) not in IN_WORDS:
            assert required_needs(block) <= set(block.needs), block.place


@pytest.mark.slow  # imports everything
@pytest.mark.parametrize(
    "block", [b for b in BLOCKS if b.language == "python"], ids=lambda b: b.place
)
def test_python_block_uses_names_that_exist(block):
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.Attribute):
            public_object(node)
        if isinstance(node, ast.Call) and callable(target := public_object(node.func)):
            keywords = {keyword.arg: None for keyword in node.keywords if keyword.arg}
            inspect.signature(target).bind_partial(*node.args, **keywords)


@pytest.mark.parametrize(
    "block", [b for b in BLOCKS if "def get_config" in b.text], ids=lambda b: b.place
)
def test_configuration_of_block_is_valid(block, tmp_path):
    file = tmp_path / "my_config.py"
    file.write_text(block.text)
    configuration.load(file)


def public_object(node: ast.AST) -> object:
    """What `pav.a.b` in a block names; None for any other expression."""
    text = ast.unparse(node)
    if not re.fullmatch(r"pav(\.\w+)+", text):
        return None
    value = pav
    for name in text.split(".")[1:]:
        value = getattr(value, name)
    return value


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for path, anchor in links(page):
        target = (page.parent / path).resolve() if path else page
        if str(target.relative_to(ROOT)) in GENERATED:
            continue
        assert target.exists(), f"{page.name}: {path}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{page.name}: {path}#{anchor}"


def test_python_reference_has_all_public_names():
    text = (ROOT / "docs" / "reference" / "python.md").read_text()
    documented = set(re.findall(r"^::: pav_jax\.(\w+)$", text, re.MULTILINE))
    members = set(pav.train.__all__)
    assert documented | members >= set(pav.__all__) - {"__version__"}

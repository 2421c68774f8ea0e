"""The version comes from pyproject.toml; what repeats it agrees."""

import re

import pages
import pretexture

(VERSION,) = re.findall(r'^version = "(.+)"$', pages.text("pyproject.toml"), re.M)


def test_the_version_of_the_citation_is_the_packages():
    assert re.findall(r"^version: (.+)$", pages.text("CITATION.cff"), re.M) == [VERSION]
    assert f"{{{VERSION}}}" in pages.text("docs/citing.md")
    assert pretexture.__version__ == VERSION


def test_the_tools_of_pre_commit_are_those_of_make_lint():
    hooks = pages.text(".pre-commit-config.yaml")
    project = pages.text("pyproject.toml")
    for tool in ("ruff", "clang-format"):
        (version,) = set(re.findall(rf'"{tool}==([\d.]+)', project))
        assert f"rev: v{version}" in hooks


def test_the_changelog_says_how_long_a_deprecation_is_announced():
    assert "Deprecations are announced for one version" in pages.text("CHANGELOG.md")

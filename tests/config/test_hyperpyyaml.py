from __future__ import annotations

from pathlib import Path

import pytest

from cosyvoice.config.hyperpyyaml import Tagged, read_hyperpyyaml, walk_tagged
from cosyvoice.errors import ConfigError


def read(tmp_path: Path, text: str, **overrides: object) -> dict[str, object]:
    path = tmp_path / "model.yaml"
    path.write_text(text)
    return read_hyperpyyaml(path, overrides)


def test_tags_become_data_and_build_nothing(tmp_path: Path) -> None:
    data = read(tmp_path, "a: !new:os.system\n  command: exit\nb: !name:x.y\nc: !apply:random.seed [1]\n")
    assert data["a"] == Tagged("new", "os.system", {"command": "exit"})
    assert data["b"] == Tagged("name", "x.y", None)
    assert data["c"] == Tagged("apply", "random.seed", [1])
    assert isinstance(data["a"], Tagged) and data["a"].class_name == "system"


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("<n>", 25),
        ("<n> * <m>", 50),
        ("(<n> + 1) // <m>", 13),
        ("-<n> % 4", 3),
        ("<n> / <m> - 0.5", 12.0),
        ("<part[inner]>", 7),
        ("<name>/file.pt", "model/file.pt"),
    ],
)
def test_references(tmp_path: Path, expression: str, expected: object) -> None:
    text = f"n: 25\nm: 2\nname: model\npart: !new:a.B\n  inner: 7\nx: {{y: [!ref '{expression}']}}\n"
    assert read(tmp_path, text)["x"] == {"y": [expected]}


def test_references_follow_overrides_and_other_references(tmp_path: Path) -> None:
    assert read(tmp_path, "a: 1\nb: !ref <a>\nc: !ref <b> * 3\n", a=5)["c"] == 15


def test_exponents_without_a_dot_are_numbers(tmp_path: Path) -> None:
    assert read(tmp_path, "sigma: 1e-06\n")["sigma"] == 1e-06


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !ref <missing>\n", "names no key"),
        ("a: !ref <b>\nb: !ref <a>\n", "refers to itself"),
        ("a: [1]\nb: !ref <a> * 2\n", "only numbers"),
        ("a: 2\nb: !ref <a> ** 99999999\n", "are understood"),
        ("a: 2\nb: !ref <a> / 0\n", "are understood"),
        ("a: 2\nb: !ref __import__('os')\n", "are understood"),
        ("a: {b: 1}\nc: !ref <a[x]>\n", "no 'x'"),
        ("a: !!python/object/apply:os.getcwd []\n", "not a YAML file this reader understands"),
        ("a: !include:other.yaml\n", "not a YAML file this reader understands"),
        ("- 1\n", "no mapping"),
        ("a: [\n", "not a YAML file"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, text)


def test_a_missing_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_hyperpyyaml(tmp_path / "absent.yaml")


def test_walk_finds_nested_tags(tmp_path: Path) -> None:
    data = read(tmp_path, "a: !new:x.A\n  b:\n  - !new:x.B\n    c: !name:x.C\n")
    assert [tagged.class_name for tagged in walk_tagged(data)] == ["A", "B", "C"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [1, 2]\nb: *x\n", "aliases are not read"),
        ("a: &x {k: 1}\nb: {<<: *x}\n", "aliases are not read"),
        ("a: " + "[" * 1000 + "]" * 1000, "levels deep"),
        ("a: " + "[" * 100_000, "levels deep"),
        ("a: 1\n" * 60_000, "bytes, more than"),
        ("a0: " + "x" * 100 + "\n" + "".join(f"a{i + 1}: !ref <a{i}><a{i}>\n" for i in range(60)), "grows too long"),
        ("a0: 99999\n" + "".join(f"a{i + 1}: !ref <a{i}> * <a{i}>\n" for i in range(60)), "are understood"),
        ("a: !ref " + "1+" * 5000 + "1\n", "too long"),
        ("".join(f"a{i}: !ref <a{i + 1}>\n" for i in range(5000)) + "a5000: 1\n", "too long"),
        ("a: " + "9" * 5000 + "\n", "not a YAML file"),
    ],
)
def test_files_that_unfold_without_measure_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, text)


def test_shared_references_are_walked_once(tmp_path: Path) -> None:
    lines = "a0: !name:x.A\n" + "".join(f"a{i + 1}: [!ref <a{i}>, !ref <a{i}>]\n" for i in range(60))
    assert [tagged.class_name for tagged in walk_tagged(read(tmp_path, lines))] == ["A"]

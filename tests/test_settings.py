"""Settings: precedence of sources, refused values, and affected parts."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from curation_features.cli import main
from curation_features.errors import SettingsError
from curation_features.schema import METRICS
from curation_features.settings import SPECS, Settings, legal_values, load_settings, load_with_origins, recomputed

REPOSITORY = Path(__file__).resolve().parent.parent

WriteToml = Callable[[str | bytes], Path]


@pytest.fixture
def write_toml(tmp_path: Path) -> WriteToml:
    """Write the project's `config/settings.toml` and return its path."""

    def write(text: str | bytes) -> Path:
        path = tmp_path / "config" / "settings.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def env(**values: str) -> dict[str, str]:
    return {f"CURATION_FEATURES_{name.upper()}": value for name, value in values.items()}


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("True", True), ("1", True), ("false", False), ("0", False)]
)
def test_a_switch_in_the_environment(tmp_path: Path, text: str, value: bool) -> None:
    assert load_settings(tmp_path, env(contact_sheet=text)).contact_sheet is value


def test_a_switch_is_true_or_false_and_nothing_else(tmp_path: Path, write_toml: WriteToml) -> None:
    with pytest.raises(SettingsError, match="CONTACT_SHEET: contact_sheet: expected true or false, not 'perhaps'"):
        load_settings(tmp_path, env(contact_sheet="perhaps"))
    write_toml("contact_sheet = 1")
    with pytest.raises(SettingsError, match="contact_sheet: expected true or false, not 1"):
        load_settings(tmp_path, {})
    write_toml("workers = true")
    with pytest.raises(SettingsError, match="workers: expected a whole number, not True"):
        load_settings(tmp_path, {})


# --- sources ------------------------------------------------------------------------------------------------------


def test_environment_overrides_file_overrides_default(tmp_path: Path, write_toml: WriteToml) -> None:
    write_toml('device = "cuda"\nworkers = 3')
    settings = load_settings(tmp_path, env(device="cpu"))
    assert (settings.device, settings.workers, settings.precision) == ("cpu", 3, "auto")


def test_the_specification_s_constants_are_the_defaults() -> None:
    settings = Settings()
    assert settings.model == "hf-hub:laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K"
    assert (settings.preview_side, settings.sharpness_scale, settings.noise_sigma_max) == (512, 2000.0, 0.08)
    assert (settings.clip_low, settings.clip_high, settings.clip_iqa_side, settings.brisque_side) == (2, 253, 336, 1024)
    assert settings.temperature is None
    assert settings.on_missing_weights == "fail"


def test_the_root_is_argument_variable_or_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    assert load_settings(tmp_path, env(root="/elsewhere")).root == tmp_path
    assert load_settings(None, env(root=str(tmp_path))).root == tmp_path
    assert load_settings(None, {}).root == tmp_path / "cwd"


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_a_root_that_is_no_folder_is_refused_with_its_source(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    root = tmp_path / name
    with pytest.raises(SettingsError, match=f"^root: {re.escape(str(root))} is not a folder; "):
        load_settings(root, {})
    with pytest.raises(SettingsError, match=f"^CURATION_FEATURES_ROOT: {re.escape(str(root))} is not a folder; "):
        load_settings(None, env(root=str(root)))


def test_the_process_environment_is_read_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CURATION_FEATURES_WORKERS", "5")
    assert load_settings(tmp_path).workers == 5


def test_other_variables_are_ignored(tmp_path: Path) -> None:
    others = {"CURATION_FEATURE_DEVICE": "x", "DEVICE": "x", **env(shared_data="/x")}
    assert load_settings(tmp_path, others) == load_settings(tmp_path, {})


def test_data_and_cache_are_under_the_root_unless_absolute(tmp_path: Path) -> None:
    assert load_settings(tmp_path, {}).cache_path == tmp_path / "data" / "cache" / "features"
    assert load_settings(tmp_path, env(data_dir="/elsewhere")).cache_path == Path("/elsewhere/cache/features")


@pytest.mark.parametrize(
    ("toml", "variables", "name", "value"),
    [
        ("temperature = 50", {}, "temperature", 50.0),
        ("", env(temperature="0.5"), "temperature", 0.5),
        ("batch_size = 8", {}, "batch_size", 8),
        ("", env(max_pixels="1000"), "max_pixels", 1000),
        ('fallback_labels = ["a", "b, c", "d", "e", "f"]', {}, "fallback_labels", ("a", "b, c", "d", "e", "f")),
        ("", env(fallback_labels="a b,c, d ,e,f,"), "fallback_labels", ("a b", "c", "d", "e", "f")),
        ("", env(photo_roots=""), "photo_roots", ()),
    ],
)
def test_values_get_the_type_of_the_setting(
    tmp_path: Path, write_toml: WriteToml, toml: str, variables: dict[str, str], name: str, value: Any
) -> None:
    write_toml(toml)
    found = getattr(load_settings(tmp_path, variables), name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "roots"),
    [
        ("/a:/b c", ("/a", "/b c")),
        ("s3://bucket/x", ("s3://bucket/x",)),
        ("/a:s3://bucket/x:gs://other:/b", ("/a", "s3://bucket/x", "gs://other", "/b")),
        (":/a::file:///b:", ("/a", "file:///b")),
    ],
)
def test_photo_roots_are_separated_as_in_path_and_may_be_uris(
    tmp_path: Path, text: str, roots: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.pathsep", ":")
    assert load_settings(tmp_path, env(photo_roots=text)).photo_roots == roots


# --- refused values -----------------------------------------------------------------------------------------------

WRONG_VALUES = [
    ("device", '"gpu"', "gpu"),
    ("precision", '"bf16"', "bf16"),
    ("on_missing_weights", '"ignore"', "ignore"),
    ("batch_size", "-1", "-1"),
    ("workers", "1.5", "1.5"),
    ("workers", '"many"', "many"),
    ("max_pixels", "0", "0"),
    ("temperature", "0", "0"),
    ("temperature", "-1.0", "-1.0"),
    ("temperature", "nan", "nan"),
    ("noise_sigma_max", "inf", "inf"),
    ("sharpness_scale", "9" * 400, "9" * 400),
    ("model", '""', ""),
    ("data_dir", '""', ""),
    ("clip_iqa_side", "31", "31"),
]


@pytest.mark.parametrize(("name", "in_toml", "in_environ"), WRONG_VALUES)
def test_a_wrong_value_is_named_with_its_source(
    tmp_path: Path, write_toml: WriteToml, name: str, in_toml: str, in_environ: str
) -> None:
    with pytest.raises(SettingsError, match=f"^CURATION_FEATURES_{name.upper()}: .*{name}"):
        load_settings(tmp_path, env(**{name: in_environ}))
    path = write_toml(f"{name} = {in_toml}")
    with pytest.raises(SettingsError, match=f"^{re.escape(str(path))}:1: .*{name}"):
        load_settings(tmp_path, {})


@pytest.mark.parametrize(
    "line",
    ["model = 5", "noise_sigma_max = true", "workers = true", "photo_roots = [1]", "temperature = []", "[device]"],
)
def test_a_toml_value_of_another_type_is_refused(tmp_path: Path, write_toml: WriteToml, line: str) -> None:
    path = write_toml(line)
    name = line.split(" ")[0].strip("[]")
    with pytest.raises(SettingsError, match=f"^{re.escape(str(path))}:1: {name}: expected "):
        load_settings(tmp_path, {})


@pytest.mark.parametrize(
    "content", ["device = ", b'model = "\xe9"', "a = 1\na = 2", "workers = " + "9" * 5000, "x = " + "[" * 5000]
)
def test_an_invalid_toml_file_is_named(tmp_path: Path, write_toml: WriteToml, content: str | bytes) -> None:
    path = write_toml(content)
    with pytest.raises(SettingsError, match=f"^{re.escape(str(path))}: cannot be read as TOML: "):
        load_settings(tmp_path, {})


def test_a_folder_instead_of_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "config" / "settings.toml").mkdir(parents=True)
    with pytest.raises(SettingsError, match=r"settings\.toml: cannot be read"):
        load_settings(tmp_path, {})


def test_an_unknown_name_comes_with_the_nearest_known_one(tmp_path: Path, write_toml: WriteToml) -> None:
    told = r"^CURATION_FEATURES_DEVISE: unknown setting 'devise'; did you mean 'device'\?$"
    with pytest.raises(SettingsError, match=told):
        load_settings(tmp_path, env(devise="cpu"))
    path = write_toml("# a comment\n\nxyzzy = 1")
    with pytest.raises(SettingsError, match=f"^{re.escape(str(path))}:3: unknown setting 'xyzzy'$"):
        load_settings(tmp_path, {})


@pytest.mark.parametrize("toml", ["[models]\nclip = 'x'", "models.clip = 'x'", "\n  [ 'models' ]\n"])
def test_a_table_is_refused_with_a_hint(tmp_path: Path, write_toml: WriteToml, toml: str) -> None:
    path = write_toml(f"workers = 1\n{toml}")
    line = 3 if toml.startswith("\n") else 2
    with pytest.raises(SettingsError, match=rf"^{re.escape(str(path))}:{line}: unknown table \[models\]: "):
        load_settings(tmp_path, {})


def test_a_secret_of_the_wrong_type_is_not_shown(tmp_path: Path, write_toml: WriteToml) -> None:
    write_toml("event_webhook_token = 1234567")
    with pytest.raises(SettingsError, match=r"event_webhook_token: expected text, not a value of another type$"):
        load_settings(tmp_path, {})


def test_each_value_has_its_origin(tmp_path: Path, write_toml: WriteToml) -> None:
    path = write_toml("# device = 'mps'\ndevice = 'cuda'\n\n  \"workers\"=3\nphoto_roots = [\n  'a',\n]")
    loaded = load_with_origins(None, env(device="cpu", batch_size="2", root=str(tmp_path), shared_data="/x"))
    assert loaded.origins == {
        "root": "CURATION_FEATURES_ROOT",
        "device": "CURATION_FEATURES_DEVICE",
        "workers": f"{path}:4",
        "photo_roots": f"{path}:5",
        "batch_size": "CURATION_FEATURES_BATCH_SIZE",
    }
    assert (loaded.settings.device, loaded.settings.workers, loaded.file) == ("cpu", 3, path)
    assert loaded.settings == load_settings(tmp_path, env(device="cpu", batch_size="2"))
    assert load_with_origins(tmp_path, env(root="/elsewhere")).origins.keys() == {"device", "workers", "photo_roots"}


def test_the_root_is_not_a_setting_of_the_file(tmp_path: Path, write_toml: WriteToml) -> None:
    write_toml('root = "/elsewhere"')
    with pytest.raises(SettingsError, match="unknown setting 'root'"):
        load_settings(tmp_path, {})


def test_clipping_limits_in_the_wrong_order_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"clip_low .* clip_high"):
        load_settings(tmp_path, env(clip_low="100", clip_high="100"))


@pytest.mark.parametrize("labels", ["a", "a,b,c,d", "a,b,c,d,e,f"])
def test_fallback_labels_are_as_many_as_a_photo_has(tmp_path: Path, labels: str) -> None:
    with pytest.raises(SettingsError, match="fallback_labels: give 5 labels or none"):
        load_settings(tmp_path, env(fallback_labels=labels))


def test_fallback_labels_differ(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="twice"):
        load_settings(tmp_path, env(fallback_labels="a,b,c,d,a"))


def test_settings_made_in_python_are_checked_too(tmp_path: Path) -> None:
    settings = Settings(root=tmp_path)
    with pytest.raises(SettingsError, match="device: 'gpu' is not one of auto, mps, cuda, cpu"):
        settings.replace(device="gpu")
    with pytest.raises(SettingsError, match="workers: expected a whole number"):
        Settings(workers="3")  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.device = "cpu"  # type: ignore[misc]


# --- affected parts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "names"),
    [
        ("sharpness", {"preview_side", "sharpness_scale"}),
        ("exposure", {"preview_side", "clip_low", "clip_high"}),
        ("noise", {"preview_side", "noise_sigma_max"}),
        ("clip_iqa", {"clip_iqa_side"}),
        ("brisque", {"brisque_side"}),
        ("embedding", {"model", "precision"}),
        ("labels", {"temperature"}),
    ],
)
def test_a_part_depends_on_its_constants_only(part: str, names: set[str]) -> None:
    settings = Settings()
    assert settings.constants(part) == {name: getattr(settings, name) for name in names}


def test_every_part_that_a_setting_names_exists() -> None:
    parts = {part for spec in SPECS.values() for part in spec.metadata["affects"]}
    assert parts == {metric.name for metric in METRICS} | {"embedding", "labels"}


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("preview_side", ("sharpness", "exposure", "noise")),
        ("model", ("embedding", "labels")),
        ("device", ("embedding", "labels")),
        ("labels_file", ("labels",)),
        ("brisque_weights", ("brisque",)),
        ("workers", ()),
    ],
)
def test_recomputed_parts_of_a_setting(name: str, parts: tuple[str, ...]) -> None:
    assert recomputed(SPECS[name]) == parts


def test_the_device_changes_the_embedding_version() -> None:
    settings = Settings()
    assert settings.constants("embedding") != settings.replace(device="cpu").constants("embedding")


# --- the shipped file ---------------------------------------------------------------------------------------------


def test_the_shipped_file_documents_every_setting(tmp_path: Path, write_toml: WriteToml) -> None:
    text = (REPOSITORY / "config" / "settings.toml").read_text()
    assert tomllib.loads(text) == {}

    write_toml(re.sub(r"^# ([a-z_]+ = )", r"\1", text, flags=re.MULTILINE))
    given = tomllib.loads((tmp_path / "config" / "settings.toml").read_text())
    assert list(given) == list(SPECS)
    assert all(spec.metadata["help"] in text for spec in SPECS.values())
    limits = [f"({re.sub('^a (whole )?number (of )?', '', legal_values(spec))})" for spec in SPECS.values()]
    assert re.findall(r"^# (\((?:one of|at least|greater).*\))$", text, re.MULTILINE) == [
        limit for limit in limits if re.match(r"\((one of|at least|greater)", limit)
    ]
    assert load_settings(tmp_path, {}).replace(temperature=None) == Settings(root=tmp_path)


def test_secrets_are_not_in_repr() -> None:
    settings = Settings(event_webhook="https://user:pass@host/secret", event_webhook_token="token")
    assert "event_webhook" not in repr(settings)


def test_the_documentation_has_every_setting_as_it_is() -> None:
    text = (REPOSITORY / "docs" / "settings.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert rows == [documented(name) for name in SPECS]


def documented(name: str) -> str:
    """Format a setting's row of the table in `docs/settings.md`."""
    spec = SPECS[name]
    default = "" if spec.default is None else f"`{json.dumps(spec.default)}`"
    cells = [f"`{name}`", default, spec.metadata["help"], legal_values(spec), ", ".join(recomputed(spec))]
    return re.sub("  +", " ", f"| {' | '.join(cells)} |")


def test_the_commands_of_the_documentation_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (REPOSITORY / "docs" / "settings.md").read_text()
    monkeypatch.chdir(tmp_path)
    lines = re.findall(r"^(?:(\w+)=(\w+) )?curation-features (.+)$", text, re.MULTILINE)
    assert len(lines) == 4
    for variable, value, command in lines:
        with monkeypatch.context() as patch:
            if variable:
                patch.setenv(variable, value)
            assert main(shlex.split(command)) == 0
        shown = capsys.readouterr().out
        assert not variable or f"from: {variable}" in shown
        assert "device" in shown

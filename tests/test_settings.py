"""Settings: precedence of sources, refused values, and affected parts."""

from __future__ import annotations

import dataclasses
import json
import pwd
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

from curation_features.cli import main
from curation_features.errors import SettingsError
from curation_features.schema import FINGERPRINT, METRICS, SIGNAL_PARTS
from curation_features.settings import SPECS, Settings, legal_values, load_settings, load_with_origins, recomputed

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclasses.dataclass
class Project:
    """A folder whose settings file and environment a test sets."""

    root: Path

    @property
    def file(self) -> Path:
        return self.root / "config" / "settings.toml"

    def load(self, toml: str | bytes = "", **variables: str) -> Settings:
        self.file.parent.mkdir(exist_ok=True)
        self.file.write_bytes(toml if isinstance(toml, bytes) else toml.encode())
        return load_settings(self.root, env(**variables))

    def error(self, toml: str | bytes = "", **variables: str) -> str:
        """The error of these settings; `FILE` represents the path of the settings file."""
        with pytest.raises(SettingsError) as caught:
            self.load(toml, **variables)
        return str(caught.value).replace(str(self.file), "FILE")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def env(**values: str) -> dict[str, str]:
    return {f"CURATION_FEATURES_{name.upper()}": value for name, value in values.items()}


# --- sources ------------------------------------------------------------------------------------------------------


def test_environment_overrides_file_overrides_default(project: Project) -> None:
    settings = project.load('device = "cuda"\nworkers = 3', device="cpu")
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


def test_data_and_cache_are_under_the_root_unless_absolute(project: Project) -> None:
    assert project.load().cache_path == project.root / "data" / "cache" / "features"
    assert project.load(data_dir="/elsewhere").cache_path == Path("/elsewhere/cache/features")


def test_a_tilde_is_the_home_folder_in_every_path(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    root = pwd.getpwuid(0)
    paths = [name for name, spec in SPECS.items() if spec.metadata["is_path"]]
    assert {name for name in SPECS if re.search("(_dirs?|_folders|_file|_roots|(iqa|brisque)_weights)$", name)} == set(
        paths
    )
    for name in paths:
        given = ["~/x", f"~{root.pw_name}/y", "~nobody-is-called-so/z", "a/~", "hf-hub:~/x"]
        meant = ["/home/ada/x", f"{root.pw_dir}/y", *given[2:]]
        if isinstance(SPECS[name].default, tuple):
            given, meant = [given], [tuple(meant)]
        for value, expected in zip(given, meant, strict=True):
            assert getattr(project.load(f"{name} = {json.dumps(value)}"), name) == expected
            assert getattr(Settings(root=project.root, **{name: expected}), name) == expected
            if isinstance(value, str):
                assert getattr(project.load(**{name: value}), name) == expected
    assert project.load(photo_roots="~/a:s3://b:~/c").photo_roots == ("/home/ada/a", "s3://b", "/home/ada/c")
    assert project.load(data_dir="~/d").data_path == Path("/home/ada/d")
    monkeypatch.setenv("HOME", str(project.root))
    assert load_settings("~", {}).root == load_settings(None, env(root="~")).root == project.root


@pytest.mark.parametrize(
    ("toml", "text", "value"),
    [
        ("temperature = 50", "50", 50.0),
        ("batch_size = 8", "8", 8),
        ("contact_sheet = true", "True", True),
        ("contact_sheet = false", "0", False),
        ('fallback_labels = ["a b", "c", "d", "e", "f"]', "a b,c, d ,e,f,", ("a b", "c", "d", "e", "f")),
        ('photo_roots = ["/a", "s3://bucket/x", "/b c"]', ":/a::s3://bucket/x:/b c", ("/a", "s3://bucket/x", "/b c")),
        ("photo_roots = []", "", ()),
    ],
)
def test_values_get_the_type_of_the_setting(
    project: Project, monkeypatch: pytest.MonkeyPatch, toml: str, text: str, value: Any
) -> None:
    monkeypatch.setattr("os.pathsep", ":")
    name = toml.split()[0]
    for settings in (project.load(toml), project.load(**{name: text})):
        found = getattr(settings, name)
        assert found == value
        assert type(found) is type(value)


# --- refused values -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "in_toml", "in_environ", "expected"),
    [
        ("device", '"gpu"', "gpu", "one of auto, mps, cuda, cpu, not 'gpu'"),
        ("contact_sheet", "1", "perhaps", "true or false, not "),
        ("batch_size", "-1", "-1", "a whole number of at least 0, not -1"),
        ("workers", "1.5", "1.5", "a whole number of at least 0, not "),
        ("workers", "true", "true", "a whole number of at least 0, not "),
        ("max_pixels", "0", "0", "a whole number of at least 1, not 0"),
        ("temperature", "0", "0", "a number greater than 0, not 0.0"),
        ("temperature", "nan", "nan", "a number greater than 0, not nan"),
        ("noise_sigma_max", "inf", "inf", "a number greater than 0, not inf"),
        ("noise_sigma_max", "true", "true", "a number greater than 0, not "),
        ("sharpness_scale", "9" * 400, "9" * 400, "a number greater than 0, not "),
        ("model", '""', "", "text, not empty, not ''"),
    ],
)
def test_a_wrong_value_is_named_with_its_source(
    project: Project, name: str, in_toml: str, in_environ: str, expected: str
) -> None:
    errors = project.error(f"{name} = {in_toml}"), project.error(**{name: in_environ})
    for source, error in zip(("FILE:1", f"CURATION_FEATURES_{name.upper()}"), errors, strict=True):
        assert error.startswith(f"{source}: {name}: expected {expected}")
        assert len(error) < 200


@pytest.mark.parametrize(
    ("toml", "error"),
    [
        ("model = 5", "FILE:1: model: expected text, not empty, not 5"),
        ("photo_roots = [1]", "FILE:1: photo_roots: expected a list of texts, not [1]"),
        ("[device]", "FILE:1: device: expected "),
        ("event_webhook_token = 1234567", "FILE:1: event_webhook_token: expected text, not a value of another type"),
        ("device = ", "FILE: cannot be read as TOML: "),
        ("device = cpu", "FILE: cannot be read as TOML: Invalid value (at line 1, column 10); text needs quotes: "),
        (b'model = "\xe9"', "FILE: cannot be read as TOML: "),
        ("a = 1\na = 2", "FILE: cannot be read as TOML: "),
        ("workers = " + "9" * 5000, "FILE: cannot be read as TOML: "),
        ("x = " + "[" * 5000, "FILE: cannot be read as TOML: "),
        ('root = "/elsewhere"', "FILE:1: unknown setting 'root'"),
        ("devise = 'cpu'", "FILE:1: unknown setting 'devise'; did you mean 'device'?"),
        ("# a comment\n\nxyzzy = 1", "FILE:3: unknown setting 'xyzzy'"),
        ("workers = 1\n[models]\nclip = 'x'", "FILE:2: unknown table [models]: "),
        ("workers = 1\nmodels.clip = 'x'", "FILE:2: unknown table [models]: "),
        ("workers = 1\n\n  [ 'models' ]\n", "FILE:3: unknown table [models]: "),
        ("clip_low = 100\nclip_high = 100", "clip_low (100) must be less than clip_high (100)"),
        ("fallback_labels = ['a']", "fallback_labels: give 5 labels or none, not 1"),
        ("fallback_labels = ['a', 'b', 'c', 'd', 'e', 'f']", "fallback_labels: give 5 labels or none, not 6"),
        ("fallback_labels = ['a', 'b', 'c', 'd', 'a']", "fallback_labels: a label occurs twice"),
    ],
    ids=range(20),
)
def test_an_invalid_file_is_named_with_line_and_cause(project: Project, toml: str | bytes, error: str) -> None:
    assert project.error(toml).startswith(error)


def test_a_folder_instead_of_the_file_is_named(project: Project) -> None:
    project.file.mkdir(parents=True)
    with pytest.raises(SettingsError, match=r"settings\.toml: cannot be read"):
        load_settings(project.root, {})


def test_each_value_has_its_origin(project: Project) -> None:
    project.load("# device = 'mps'\ndevice = 'cuda'\n\n  \"workers\"=3\nphoto_roots = [\n  'a',\n]")
    loaded = load_with_origins(None, env(device="cpu", batch_size="2", root=str(project.root), shared_data="/x"))
    assert loaded.origins == {
        "root": "CURATION_FEATURES_ROOT",
        "device": "CURATION_FEATURES_DEVICE",
        "workers": f"{project.file}:4",
        "photo_roots": f"{project.file}:5",
        "batch_size": "CURATION_FEATURES_BATCH_SIZE",
    }
    assert (loaded.settings.device, loaded.settings.workers, loaded.file) == ("cpu", 3, project.file)
    assert loaded.settings == load_settings(project.root, env(device="cpu", batch_size="2"))
    there = load_with_origins(project.root, env(root="/elsewhere"))
    assert there.origins.keys() == {"device", "workers", "photo_roots"}


def test_settings_made_in_python_are_checked_too(tmp_path: Path) -> None:
    settings = Settings(root=tmp_path)
    with pytest.raises(SettingsError, match="device: expected one of auto, mps, cuda, cpu, not 'gpu'"):
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
        ("flags", {name for name in SPECS if name.startswith("limit_")}),
        *((part, set()) for part in (*SIGNAL_PARTS, FINGERPRINT)),
    ],
)
def test_a_part_depends_on_its_constants_only(part: str, names: set[str]) -> None:
    settings = Settings()
    assert settings.constants(part) == {name: getattr(settings, name) for name in names}


def test_every_part_that_a_setting_names_exists() -> None:
    parts = {part for spec in SPECS.values() for part in spec.metadata["affects"]}
    assert parts == {metric.name for metric in METRICS} | {"embedding", "labels", "flags"}


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("preview_side", ("sharpness", "exposure", "noise")),
        ("model", ("embedding", "labels")),
        ("device", ("embedding", "labels")),
        ("labels_file", ("labels",)),
        ("brisque_weights", ("brisque",)),
        ("workers", ()),
        ("limit_dark", ("flags",)),
    ],
)
def test_recomputed_parts_of_a_setting(name: str, parts: tuple[str, ...]) -> None:
    assert recomputed(SPECS[name]) == parts


def test_the_device_changes_the_embedding_version() -> None:
    settings = Settings()
    assert settings.constants("embedding") != settings.replace(device="cpu").constants("embedding")


# --- the shipped file ---------------------------------------------------------------------------------------------


def test_the_shipped_file_documents_every_setting(project: Project) -> None:
    text = (REPOSITORY / "config" / "settings.toml").read_text()
    assert tomllib.loads(text) == {}

    every = re.sub(r"^# ([a-z_]+ = )", r"\1", text, flags=re.MULTILINE)
    assert list(tomllib.loads(every)) == list(SPECS)
    assert all(spec.metadata["help"] in text for spec in SPECS.values())
    limits = [f"({re.sub('^a (whole )?number (of )?', '', legal_values(spec))})" for spec in SPECS.values()]
    assert re.findall(r"^# (\((?:one of|at least|greater).*\))$", text, re.MULTILINE) == [
        limit for limit in limits if re.match(r"\((one of|at least|greater)", limit)
    ]
    assert project.load(every).replace(temperature=None) == Settings(root=project.root)


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

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from opencode_magic.errors import SettingsError
from opencode_magic.settings import load_env_files, load_settings, make_private_dir

if TYPE_CHECKING:
    from pathlib import Path

KEY = "planted-key-0123456789"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A notebook's folder two levels down."""
    path = tmp_path / "project" / "notebooks"
    path.mkdir(parents=True)
    return path


@pytest.fixture
def system_file(tmp_path: Path) -> Path:
    """A system-wide file that may be written."""
    return tmp_path / "config.toml"


def test_argument_beats_environment_beats_file_beats_system(
    folder: Path, system_file: Path
) -> None:
    """The first source that says something about a setting decides it."""
    system_file.write_text('model = "from/system"\n')
    seen = []
    for write in (
        lambda: None,
        lambda: (folder.parent / ".env").write_text("OPENCODE_MAGIC_MODEL=from/parent\n"),
        lambda: (folder / ".env").write_text("OPENCODE_MAGIC_MODEL=from/env\n"),
        lambda: (folder / ".env.local").write_text("OPENCODE_MAGIC_MODEL=from/local\n"),
    ):
        write()
        seen.append(load_settings(folder=folder, environ={}, system_file=system_file).model)
    env = {"OPENCODE_MAGIC_MODEL": "from/environ"}
    seen.append(load_settings(folder=folder, environ=env, system_file=system_file).model)
    given = {"model": "from/argument"}
    seen.append(load_settings(given, folder=folder, environ=env, system_file=system_file).model)

    assert seen == [
        "from/system",
        "from/parent",
        "from/env",
        "from/local",
        "from/environ",
        "from/argument",
    ]


def test_reading_leaves_the_environment_alone(folder: Path) -> None:
    """A key in a file is found, and is not put into the process's environment."""
    (folder / ".env.local").write_text(f"OPENAI_API_KEY={KEY}\n")
    before = dict(os.environ)

    settings = load_settings(folder=folder)

    assert settings.keys == {"OPENAI_API_KEY": KEY}
    assert dict(os.environ) == before


def test_repr_holds_no_secret(folder: Path) -> None:
    """No secret shows in the settings' repr."""
    settings = load_settings(
        {"api_key": KEY, "oidc_token": KEY, "token": KEY},
        folder=folder,
        environ={"OPENAI_API_KEY": KEY},
    )

    assert KEY not in repr(settings)


@pytest.mark.parametrize(
    "line",
    [
        "OPENCODE_MAGIC_BINARY=/tmp/evil",
        "OPENCODE_MAGIC_UPSTREAM=api.openai.com=127.0.0.1:1",
        "OPENCODE_MAGIC_UPSTREAM_CA=/tmp/evil.pem",
        "OPENCODE_MAGIC_CLOUD_URL=http://evil.example",
        "OPENCODE_MAGIC_MAP=jupyter.internal=http://127.0.0.1:8888",
    ],
)
def test_file_beside_a_notebook_cannot_lead_elsewhere(folder: Path, line: str) -> None:
    """What opens the wall, or names what is run, is taken from no ``.env`` file."""
    plain = load_settings(folder=folder, environ={})
    (folder / ".env").write_text(line + "\n")

    assert load_settings(folder=folder, environ={}) == plain


@pytest.mark.parametrize("where", ["argument", "environ", "other file", "system"])
def test_a_files_endpoint_gets_no_key_of_another_source(
    folder: Path, system_file: Path, where: str
) -> None:
    """A key goes to no address that a file names which does not hold the key itself."""
    (folder / ".env").write_text("OPENCODE_MAGIC_BASE_URL=https://evil.example/v1\n")
    if where == "other file":
        (folder.parent / ".env").write_text(f"OPENCODE_MAGIC_API_KEY={KEY}\n")
    if where == "system":
        system_file.write_text(f'api_key = "{KEY}"\n')

    with pytest.raises(SettingsError) as caught:
        load_settings(
            {"api_key": KEY} if where == "argument" else None,
            folder=folder,
            environ={"OPENCODE_MAGIC_API_KEY": KEY} if where == "environ" else {},
            system_file=system_file,
        )

    told = str(caught.value)
    assert f"OPENCODE_MAGIC_BASE_URL in {folder / '.env'}" in told
    assert "api_key" in told.lower()
    assert "put both into one file" in caught.value.next_step
    assert KEY not in told


def test_an_endpoint_and_its_key_may_stand_together(folder: Path) -> None:
    """One file may hold both, or an address alone; the user's own address takes any key."""
    file = folder / ".env"
    file.write_text("OPENCODE_MAGIC_BASE_URL=https://api.example/v1\n")
    alone = load_settings(folder=folder, environ={})
    file.write_text(f"{file.read_text()}OPENCODE_MAGIC_API_KEY={KEY}\n")
    both = load_settings(folder=folder, environ={})
    own = {"OPENCODE_MAGIC_BASE_URL": "https://own.example/v1"}

    assert (alone.base_url, alone.api_key) == ("https://api.example/v1", "")
    assert (both.base_url, both.api_key) == ("https://api.example/v1", KEY)
    assert load_settings(folder=folder, environ=own).base_url == "https://own.example/v1"


def test_unknown_home_is_refused_with_its_source(folder: Path) -> None:
    """A misspelt home names where it stands and what there is."""
    with pytest.raises(SettingsError, match=r"no home 'vercl'.*OPENCODE_MAGIC_HOME"):
        load_settings(folder=folder, environ={"OPENCODE_MAGIC_HOME": "vercl"})


@pytest.mark.parametrize("text", ["soon", "1", "nan", "1e9"])
def test_time_limit_out_of_range_is_refused(folder: Path, text: str) -> None:
    """The time limit is a number of seconds that both homes can keep."""
    with pytest.raises(SettingsError, match="60 to 86400"):
        load_settings({"time_limit_s": text}, folder=folder, environ={})


@pytest.mark.parametrize("minutes", [-4, 0, 5_000])
def test_time_limit_in_minutes_is_refused_in_minutes(folder: Path, minutes: int) -> None:
    """Who gives minutes reads minutes."""
    with pytest.raises(SettingsError) as caught:
        load_settings({"time_limit_s": minutes * 60}, folder=folder, environ={})

    assert str(caught.value) == (
        f"a sandbox cannot be given {minutes} minutes. Next: give from 1 to 1440 minutes"
    )


def test_mappings_are_read(folder: Path) -> None:
    """Several mappings stand in one variable, parted by commas."""
    text = "ollama.internal=http://127.0.0.1:11434, vllm.internal=http://127.0.0.1:8000"

    settings = load_settings(folder=folder, environ={"OPENCODE_MAGIC_MAP": text})

    assert settings.mappings == {
        "ollama.internal": "http://127.0.0.1:11434",
        "vllm.internal": "http://127.0.0.1:8000",
    }


def test_mapping_of_a_public_name_is_refused(folder: Path) -> None:
    """Only a name that ends in .internal can be mapped."""
    env = {"OPENCODE_MAGIC_MAP": "api.openai.com=http://127.0.0.1:1"}

    with pytest.raises(SettingsError, match="no mapping"):
        load_settings(folder=folder, environ=env)


@pytest.mark.parametrize("name", ["foo.example", "internal", ".internal", "10.0.0.1"])
def test_mapping_that_is_an_argument_is_checked_too(folder: Path, name: str) -> None:
    """A name that cannot be mapped is refused in a line that says where it was given."""
    with pytest.raises(SettingsError, match=f"'{name}' cannot be mapped") as caught:
        load_settings({"mappings": {name: "http://127.0.0.1:1"}}, folder=folder, environ={})

    assert "--map" in str(caught.value)
    assert "ends in .internal" in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://192.168.1.20:11434", "http://example.com", "ftp://127.0.0.1", "127.0.0.1:1"]
)
def test_mapping_to_another_machine_is_refused(folder: Path, url: str) -> None:
    """What is mapped is a server on this machine, wherever the mapping was given."""
    with pytest.raises(SettingsError, match="is no server on this machine") as given:
        load_settings({"mappings": {"x.internal": url}}, folder=folder, environ={})
    with pytest.raises(SettingsError, match="is no mapping"):
        load_settings(folder=folder, environ={"OPENCODE_MAGIC_MAP": f"x.internal={url}"})

    assert str(given.value).startswith(f"x.internal is mapped to {url!r} (--map), which is no")


def test_mapping_to_nowhere_is_refused(folder: Path) -> None:
    """A mapping needs an address."""
    with pytest.raises(SettingsError, match=r"x\.internal is mapped to nothing \(--map\)"):
        load_settings({"mappings": {"x.internal": ""}}, folder=folder, environ={})


def test_unknown_argument_is_refused(folder: Path) -> None:
    """A misspelt argument is an error, not a default."""
    with pytest.raises(SettingsError, match="'modle'"):
        load_settings({"modle": "x"}, folder=folder, environ={})


@pytest.mark.parametrize("text", ["not toml [", 'modle = "x"'])
def test_broken_system_file_is_an_error(folder: Path, system_file: Path, text: str) -> None:
    """A system-wide file that cannot be understood stops everything: it may forbid something."""
    system_file.write_text(text)

    with pytest.raises(SettingsError, match="settings file"):
        load_settings(folder=folder, environ={}, system_file=system_file)


def test_unreadable_env_file_is_passed_over(folder: Path) -> None:
    """A folder, binary rubbish or an empty value named .env stops nobody."""
    (folder / ".env").mkdir()
    (folder / ".env.local").write_bytes(b"\xff\xfe=\x00")
    (folder.parent / ".env").write_text("OPENAI_API_KEY=\nVERCEL_TEAM_ID=team\n")

    found = [values for path, values in load_env_files(folder) if path.parent == folder.parent]

    assert found == [{"VERCEL_TEAM_ID": "team"}]


def test_braces_and_dollars_in_a_file_stay(folder: Path) -> None:
    """Values are taken as they stand; nothing is interpolated."""
    (folder / ".env").write_text("OPENCODE_MAGIC_MODEL='a${HOME}b'\n")

    assert load_settings(folder=folder, environ={}).model == "a${HOME}b"


def test_folders_come_from_variables(folder: Path, tmp_path: Path) -> None:
    """Cache, state and runtime folders can be named."""
    env = {
        "OPENCODE_MAGIC_CACHE_DIR": str(tmp_path / "c"),
        "OPENCODE_MAGIC_STATE_DIR": str(tmp_path / "s"),
        "OPENCODE_MAGIC_RUNTIME_DIR": str(tmp_path / "r"),
    }

    settings = load_settings(folder=folder, environ=env)

    expected = replace(
        settings,
        cache_dir=tmp_path / "c",
        state_dir=tmp_path / "s",
        runtime_dir=tmp_path / "r",
    )
    assert settings == expected


def test_strict_can_be_switched_on(folder: Path) -> None:
    """OPENCODE_MAGIC_STRICT=1 asks for the strict firewall."""
    assert load_settings(folder=folder, environ={"OPENCODE_MAGIC_STRICT": "1"}).is_strict
    assert not load_settings(folder=folder, environ={}).is_strict


def test_private_folder_is_made_private(tmp_path: Path) -> None:
    """A folder that others may enter is closed to them."""
    path = tmp_path / "state"
    path.mkdir(mode=0o755)

    make_private_dir(path)

    assert path.stat().st_mode & 0o777 == 0o700


def test_link_is_no_private_folder(tmp_path: Path) -> None:
    """A link where the folder should be is refused: somebody else may own what it names."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")

    with pytest.raises(SettingsError, match="not a folder"):
        make_private_dir(tmp_path / "link")


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root can give away")
def test_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    """A runtime folder that another user made beforehand is not used."""
    path = tmp_path / "run"
    path.mkdir()
    os.chown(path, 12345, 12345)

    with pytest.raises(SettingsError, match="another user"):
        make_private_dir(path)

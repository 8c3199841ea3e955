"""Secrets at rest: they open for their owner with the right key, and for nobody else."""

from __future__ import annotations

import base64
import secrets
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osmo_ray.providers.secrets import LocalVault, SecretError, key_file, load

KEY = bytes(range(32))
values = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"]))
)


@given(values, st.text(st.characters(exclude_categories=["Cs"])))
def test_what_is_sealed_opens_again_and_shows_nothing(kept: dict[str, str], owner: str) -> None:
    vault = LocalVault([KEY])
    sealed = vault.seal(owner, "aws", kept)
    assert vault.open(owner, "aws", sealed) == kept
    assert all(len(v) < 4 or v.encode() not in sealed for v in kept.values())
    assert vault.seal(owner, "aws", kept) != sealed


def test_another_owner_name_key_or_byte_does_not_open_it() -> None:
    vault = LocalVault([KEY])
    sealed = vault.seal("ann", "aws", {"KEY": "secret-value"})
    for owner, name in (("bob", "aws"), ("ann", "gcs"), ("annaws", "")):
        with pytest.raises(SecretError, match="does not open"):
            vault.open(owner, name, sealed)
    with pytest.raises(SecretError, match="set it again"):
        LocalVault([secrets.token_bytes(32)]).open("ann", "aws", sealed)
    for at in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[at] ^= 1
        with pytest.raises(SecretError):
            vault.open("ann", "aws", bytes(damaged))
    for cut in (b"", sealed[:5], sealed[:-1]):
        with pytest.raises(SecretError):
            vault.open("ann", "aws", cut)


def test_an_old_key_still_opens_and_the_new_one_seals(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    old = load(path).seal("ann", "aws", {"a": "1"})
    first = path.read_bytes()
    path.write_bytes(base64.b64encode(KEY) + b"\n" + first)
    vault = load(path)
    assert vault.open("ann", "aws", old) == {"a": "1"}
    assert LocalVault([KEY]).open("ann", "aws", vault.seal("ann", "aws", {"a": "2"})) == {"a": "2"}


def test_the_key_file_is_its_owners_alone_and_made_once(tmp_path: Path) -> None:
    path = key_file(tmp_path / "home", {})
    assert path == tmp_path / "home/secret.key"
    assert key_file(tmp_path, {"OSMO_SECRET_KEY_FILE": "/k"}) == Path("/k")
    with ThreadPoolExecutor(8) as pool:
        vaults = list(pool.map(lambda _: load(path), range(8)))
    sealed = vaults[0].seal("a", "b", {"c": "d"})
    assert all(v.open("a", "b", sealed) == {"c": "d"} for v in vaults)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and [p.name for p in path.parent.iterdir()] == ["secret.key"]
    path.chmod(0o640)
    with pytest.raises(SecretError, match="chmod 600"):
        load(path)


@pytest.mark.parametrize("text", [b"", b"short\n", b"!!!!\n", base64.b64encode(b"x" * 31)])
def test_a_file_without_a_key_is_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "secret.key"
    path.write_bytes(text)
    path.chmod(0o600)
    with pytest.raises(SecretError):
        load(path)
    with pytest.raises(SecretError, match="cannot be read"):
        load(tmp_path / "absent", create=False)
    assert "x" * 31 not in repr(LocalVault([KEY]))


def test_a_large_secret_is_refused() -> None:
    with pytest.raises(SecretError, match="more than 1024 KiB"):
        LocalVault([KEY]).seal("a", "b", {"c": "x" * (1 << 20)})

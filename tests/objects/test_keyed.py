"""What a credential means for the library that speaks to its store."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from osmo_ray.objects.keyed import bucket_key, store_options
from osmo_ray.objects.protocol import ObjectError
from osmo_ray.objects.remote import FsspecStore


@dataclass
class Key:
    endpoint: str
    access_key_id: str = "id"
    access_key: str = "secret"
    region: str = ""
    override_url: str = ""
    addressing: str = ""
    encryption_key: str = ""


def test_endpoint_region_and_addressing_belong_to_the_credential() -> None:
    keys = [
        Key("s3://a", region="eu-west-1", override_url="http://127.0.0.1:9", addressing="path"),
        Key("s3://a/deep", "other", addressing="virtual"),
    ]
    assert store_options(keys, "s3://a/x") == {
        "key": "id",
        "secret": "secret",
        "endpoint_url": "http://127.0.0.1:9",
        "client_kwargs": {"region_name": "eu-west-1"},
        "config_kwargs": {"s3": {"addressing_style": "path"}},
    }
    deep = store_options(keys, "s3://a/deep/x")
    assert deep == {"key": "other", "secret": "secret", "config_kwargs": {"s3": {"addressing_style": "virtual"}}}
    with pytest.raises(ObjectError, match="path, virtual, auto"):
        store_options([Key("s3://a", addressing="sideways")], "s3://a")


def test_a_google_key_is_a_service_account_or_a_name() -> None:
    assert store_options([Key("gs://b", access_key='{"type": "service_account"}')], "gs://b/x") == {
        "token": {"type": "service_account"}
    }
    key = Key("gs://b", access_key="anon", override_url="http://127.0.0.1:9")
    assert store_options([key], "gs://b") == {"token": "anon", "endpoint_url": "http://127.0.0.1:9"}
    with pytest.raises(ObjectError, match="JSON"):
        store_options([Key("gs://b", access_key="{")], "gs://b")


@pytest.mark.parametrize("own", [{}, {"endpoint_url": "http://127.0.0.1:9"}])
def test_checksums_that_old_servers_do_not_know_are_not_sent_to_them(own: dict[str, str]) -> None:
    config = FsspecStore("s3://b/p", {"key": "k", "secret": "s", **own})._fs.config_kwargs or {}
    assert config.get("request_checksum_calculation") == ("when_required" if own else None)
    assert config.get("response_checksum_validation") == ("when_required" if own else None)


def test_who_wants_checksums_gets_them() -> None:
    given = {"request_checksum_calculation": "when_supported", "s3": {"addressing_style": "path"}}
    store = FsspecStore("s3://b", {"key": "k", "secret": "s", "endpoint_url": "http://h", "config_kwargs": given})
    assert store._fs.config_kwargs == {
        **given,
        "signature_version": "s3v4",
        "response_checksum_validation": "when_required",
    }


def test_the_key_of_encrypted_datasets_is_that_of_the_longest_endpoint() -> None:
    keys = [Key("s3://a", encryption_key="ab" * 32), Key("s3://a/clear"), Key("s3://b", encryption_key="too short")]
    assert bucket_key(keys, "s3://a/x") == b"\xab" * 32
    assert bucket_key(keys, "s3://a/clear/x") is None and bucket_key(keys, "s3://c") is None
    with pytest.raises(ObjectError, match="64 hex digits"):
        bucket_key(keys, "s3://b/x")

"""No secret leaves a masked stream, however it is cut, encoded or hidden behind another."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osmo_ray.runtime.masking import Masker, mask

SECRET = "hunter2-Passw0rd/+=é"
letters = st.text("abAB12+/=", min_size=8, max_size=14)
pieces = st.lists(st.sampled_from(["a", "b", "AB", "12", "\n", " ", "=", "SECRET", "SECRE", "x" * 40]), max_size=25)


def streamed(parts: list[bytes], values: list[str]) -> bytes:
    masker = Masker(values)
    return b"".join([masker.feed(p) for p in parts]) + masker.end()


@given(st.lists(letters, min_size=1, max_size=3), pieces, st.data())
def test_cuts_change_nothing_and_no_secret_is_left(secrets: list[str], made: list[str], data: st.DataObject) -> None:
    text = "".join(p.replace("SECRET", secrets[0]).replace("SECRE", secrets[0][:-1]) for p in made).encode()
    whole = streamed([text], secrets)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert streamed(parts, secrets) == whole
    assert all(s.encode() not in whole.replace(b"[MASKED]", b"\x00") for s in secrets)


@given(st.binary(max_size=9), st.binary(max_size=9), st.integers(1, 7))
def test_base64_hides_nothing_at_any_position(before: bytes, after: bytes, step: int) -> None:
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        text = encode(before + SECRET.encode() + after)
        parts = [text[i : i + step] for i in range(0, len(text), step)]
        left = streamed(parts, [SECRET])
        assert b"[MASKED]" in left
        core = base64.b64encode(SECRET.encode())[4:-6]
        assert core not in left and len(left) < len(text)


@pytest.mark.parametrize(
    "text",
    [
        SECRET,
        json.dumps({"k": SECRET}),
        json.dumps({"k": SECRET}, ensure_ascii=False),
        quote(SECRET),
        quote(SECRET, safe=""),
    ],
)
def test_other_spellings_are_found(text: str) -> None:
    assert "[MASKED]" in mask(f"a {text} b", [SECRET]) and "Passw0rd" not in mask(text, [SECRET])


def test_short_values_stay_and_long_ones_win() -> None:
    assert mask("abc 1234567 12345678 123456789", ["1234567", "12345678", "123456789"]) == (
        "abc 1234567 [MASKED] [MASKED]"
    )
    assert mask("nothing here", []) == "nothing here" and mask("\udcff x", [SECRET]) == "\udcff x"


def test_each_line_of_a_key_is_a_secret() -> None:
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBg\nkqhkiG9w0BAQEF\n-----END KEY-----\n"
    assert "kqhkiG9w0BAQEF" not in mask("log: kqhkiG9w0BAQEF", [key])
    assert mask(key, [key]) == "[MASKED]"


def test_what_cannot_be_a_secret_goes_on_at_once() -> None:
    masker = Masker([SECRET])
    assert masker.feed(b"progress 50%\r") == b"progress 50%\r"
    assert masker.feed(b"password: hunter") == b"password: " and masker.feed(b"!") == b"hunter!"

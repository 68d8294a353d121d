"""What a store says of a refused request leads to its cause."""

import sys

import pytest
from obstore.exceptions import GenericError

from manifests.errors import UsageError
from manifests.store import objects
from manifests.store.objects import said


def test_a_bare_refusal_names_credentials_that_may_have_expired():
    with pytest.raises(OSError, match="expired credentials"), said("bucket/key"):
        raise GenericError("HEAD returned 400 Bad Request: ")
    with pytest.raises(OSError) as caught, said("bucket/key"):
        raise GenericError("connection reset")
    assert "credentials" not in str(caught.value)


def test_where_no_keys_are_found_one_reads_how_to_give_them():
    text = "Error performing PUT http://169.254.169.254/latest/api/token in 1s, after 10 retries"
    with pytest.raises(OSError, match=r"no keys were found: set AWS_ACCESS_KEY_ID .*169\.254"), said("b/k"):
        raise GenericError(text)


def test_a_profile_that_nothing_here_can_read_is_named(monkeypatch):
    """As without boto3 it was passed over, and then said that no keys were found: set AWS_PROFILE."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    assert objects._profile({}) == {}
    monkeypatch.setenv("AWS_PROFILE", "team")
    assert objects._profile({"skip_signature": True}) == {}
    with pytest.raises(UsageError, match=r"AWS_PROFILE team: cannot be read without boto3.*extra `s3`"):
        objects._profile({})

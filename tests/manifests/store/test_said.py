"""What a store says of a refused request leads to its cause."""

import pytest
from obstore.exceptions import GenericError

from manifests.store.objects import said


def test_a_bare_refusal_names_credentials_that_may_have_expired():
    with pytest.raises(OSError, match="expired credentials"), said("bucket/key"):
        raise GenericError("HEAD returned 400 Bad Request: ")
    with pytest.raises(OSError) as caught, said("bucket/key"):
        raise GenericError("connection reset")
    assert "credentials" not in str(caught.value)

"""Which addresses may be served without a key."""

from __future__ import annotations

import pytest

from cora.errors import ConfigError
from cora.serving.access import check_exposure


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", "127.0.0.1.example.org", ""])
def test_other_machines_need_a_key(host):
    with pytest.raises(ConfigError, match="API key"):
        check_exposure(host, None, insecure=False)
    check_exposure(host, "key", insecure=False)
    check_exposure(host, None, insecure=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "[::1]", "localhost", "127.8.0.1"])
def test_loopback_needs_none(host):
    check_exposure(host, None, insecure=False)

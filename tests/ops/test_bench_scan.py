from __future__ import annotations

import pytest
import torch

from cora.bench import scan, scan_peers
from cora.errors import CoraError


def test_rows_have_all_columns_and_errors_are_measured() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "reuse_memory", lambda: False)
        rows = scan.run([(2, 5, 16, 3)], [(2, 5, 16, 4)], rounds=2)
    assert [row["pass"] for row in rows] == ["forward", "forward+backward"] * 2
    for row in rows:
        assert tuple(row) == scan.COLUMNS
        assert 0 < row["p25_ms"] <= row["ms"] <= row["p75_ms"]
        assert 0 < row["rel_rms"] < 1e-6
        assert row["floor_ms"] >= 0
        if row["case"].startswith("scan"):
            assert row["vs_slow"] > 0
            assert row["both_over_one"] > 0
            assert row["calls_over_one"] > 1
        else:
            assert row["vs_torch"] > 0


def test_a_peer_that_computes_something_else_is_no_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_peers, "_slow", lambda u, *_: u)
    with pytest.raises(CoraError, match="computes another thing"):
        scan.run([(1, 4, 8, 2)], [], rounds=1)


def test_peers_agree_with_the_operation() -> None:
    inputs = scan._scan_inputs(2, 7, 6, 4)
    peers = scan_peers.make_scan_peers()
    assert {"slow", "loop", "pscan"} <= set(peers)
    for peer in peers.values():
        torch.testing.assert_close(peer(*inputs), peers["loop"](*inputs), rtol=1e-4, atol=1e-5)

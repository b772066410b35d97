from __future__ import annotations

import numpy as np

from marketd.ingest.symbols import SymbolTable


def test_numbers_are_given_once_from_zero_upwards() -> None:
    table = SymbolTable()
    assert [table.add(s) for s in ("A", "B", "A", "C", "B")] == [0, 1, 0, 2, 1]
    assert (table.names, len(table)) == (["A", "B", "C"], 3)
    assert (table.get("B"), table.get("b"), table.get("Z")) == (1, None, None)


def test_rows_are_translated_whichever_source_names_them() -> None:
    table = SymbolTable()
    one, two = ("A", "B"), ("C", "B", "A")
    index = np.array([1, 0, 1], np.int32)
    for _ in range(2):  # two sources that take turns
        assert table.translate(one, index).tolist() == [1, 0, 1]
        assert table.translate(two, np.array([0, 1, 2], np.int32)).tolist() == [2, 1, 0]
    assert table.translate(("C", "D"), np.array([1, 1, 0], np.int32)).tolist() == [3, 3, 2]
    assert table.translate((), np.empty(0, np.int32)).tolist() == []
    assert table.names == ["A", "B", "C", "D"]


def test_equal_tuples_of_another_identity_are_translated_alike() -> None:
    table = SymbolTable()
    index = np.array([0], np.int32)
    assert [table.translate((f"S{i % 3}",), index).tolist() for i in range(6)] == [[0], [1], [2], [0], [1], [2]]


def test_near_names_best_first() -> None:
    table = SymbolTable()
    for name in ("AAPL", "AAL", "MSFT", "BTC-USD", "BTC-EUR", "eth-usd"):
        table.add(name)
    assert table.near("APPL")[0] == "AAPL"
    assert table.near("aapl")[0] == "AAPL"
    assert set(table.near("btc")) == {"BTC-USD", "BTC-EUR"}
    assert table.near("ETH-USD")[0] == "eth-usd"
    assert table.near("") == []
    assert table.near("ZZZZZZ") == []
    assert len(table.near("BTC-USD", 1)) == 1
    assert SymbolTable().near("A") == []

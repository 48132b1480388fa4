"""The table of what pictures cost is arithmetic."""

from scripts.costs import PRICE, table


def test_hours_and_dollars():
    each = {"reading": 0.1, "decoding": 1.0, "predicting": 2.0, "sorting": 0.5}
    rows = table({"milliseconds": each}).splitlines()
    assert rows[3] == "| decode | 1.00 | 0.3 h | 27.8 h | 277.8 h |"
    assert rows[-2] == "| all | 3.60 | 1.0 h | 100.0 h | 1,000.0 h |"
    assert rows[-1].endswith(f"| {PRICE:,.2f} | {100 * PRICE:,.2f} | {1000 * PRICE:,.2f} |")

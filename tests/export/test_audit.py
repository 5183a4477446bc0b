import csv
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2raap.core.errors import M2raapError
from m2raap.core.tables import row_key
from m2raap.export.audit import KEY, draw_sheet, judge_sheet
from m2raap.export.corpus import curated_view
from m2raap.retrieval.significance import wilson


@pytest.fixture
def sheet(curated: Path, tmp_path: Path) -> Path:
    draw_sheet(curated, tmp_path / "sheet.csv", 4, 0)
    return tmp_path / "sheet.csv"


def rows_of(sheet: Path) -> list[dict[str, str]]:
    with open(sheet, encoding="utf-8-sig", newline="") as source:
        return list(csv.DictReader(source))


def key_of(sheet: Path) -> dict[str, dict[str, str]]:
    return {row["item"]: row for row in pq.read_table(sheet.parent / KEY).to_pylist()}


def label(sheet: Path, labels: dict[str, str], delimiter: str = ",", encoding: str = "utf-8", end: str = "\n") -> None:
    rows = [row | {"label": labels.get(row["item"], "")} for row in rows_of(sheet)]
    with open(sheet, "w", encoding=encoding, errors="replace", newline="") as sink:
        writer = csv.DictWriter(sink, list(rows[0]), delimiter=delimiter, lineterminator=end)
        writer.writeheader()
        writer.writerows(rows)


def test_the_sheet_is_blind_and_holds_every_reason(curated: Path, sheet: Path):
    rows, key = rows_of(sheet), key_of(sheet)
    view = curated_view(curated)
    dropped = [row for index in range(view.num_parts) for row in view.dropped(index)]
    reasons = {row["reason"] for row in dropped} - {"no_text_left"}
    assert {row["reason"] for row in key.values()} == reasons | {"kept"}
    for reason in reasons:
        num_drawn, num_dropped = (sum(r["reason"] == reason for r in rows_) for rows_ in (key.values(), dropped))
        assert num_drawn == min(4, num_dropped)
    text = sheet.read_text(encoding="utf-8-sig")
    assert not any(reason in text for reason in reasons) and "kept" not in text and "threshold" not in text
    # Nothing in a row tells dropped from kept: same columns filled, and no order.
    assert all(row["compare_with"] and row["video"] and not row["label"] for row in rows)
    assert [key[row["item"]]["reason"] for row in rows] != sorted(key[row["item"]]["reason"] for row in rows)
    kept = [key[row["item"]] for row in rows if key[row["item"]]["reason"] == "kept"]
    kept_keys = {row[name] for row in kept for name in ("text_id", "clip_id")}
    assert kept and not kept_keys & {row_key(row) for row in dropped}


def test_the_seed_decides_the_draw(curated: Path, sheet: Path, tmp_path: Path):
    for name, seed in (("same", 0), ("other", 1)):
        draw_sheet(curated, tmp_path / name / "sheet.csv", 4, seed)
    assert (tmp_path / "same" / "sheet.csv").read_bytes() == sheet.read_bytes()
    assert (tmp_path / "other" / "sheet.csv").read_bytes() != sheet.read_bytes()


@pytest.mark.parametrize(
    ("delimiter", "encoding", "end"),
    [(",", "utf-8", "\n"), (";", "utf-8-sig", "\r\n"), ("\t", "utf-16", "\r\n"), (";", "gbk", "\r\n")],
)
def test_labels_come_back_as_rates(curated: Path, sheet: Path, delimiter: str, encoding: str, end: str):
    """Half of the boilerplate drops were wrong, all else right; two of the kept are bad, one was left open."""
    key = key_of(sheet)
    labels = {item: "keep" if row["reason"] == "kept" else "drop" for item, row in key.items()}
    stock = sorted(item for item, row in key.items() if row["reason"] == "boilerplate")
    kept = sorted(item for item, row in key.items() if row["reason"] == "kept")
    labels |= dict.fromkeys(stock[: len(stock) // 2], " KEEP ") | dict.fromkeys(kept[:2], "Drop") | {kept[2]: ""}
    label(sheet, labels, delimiter, encoding, end)
    verdict = judge_sheet(curated, sheet)
    by_reason = {row["reason"]: row for row in verdict["reasons"]}
    assert by_reason["boilerplate"]["wrong"] == len(stock) // 2 > 0
    assert by_reason["boilerplate"]["interval"] == wilson(len(stock) // 2, len(stock))
    assert all(
        row["wrong"] == 0 and row["interval"][0] == 0 for name, row in by_reason.items() if name != "boilerplate"
    )
    assert (verdict["kept"]["labelled"], verdict["kept"]["agreed"], verdict["unlabelled"]) == (3, 1, 1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("item,label", "item,lable", r"sheet.csv: row 1: expected one column 'label'"),
        ("\r\n2,", "\r\n2,maybe", r"sheet.csv: row 3, column 'label': 'maybe' "),
        ("\r\n2,", "\r\n1,", r"sheet.csv: row 3, column 'item': '1' "),
        ("\r\n2,", "\r\n999,", r"sheet.csv: row 3, column 'item': '999' "),
        ("\r\n2,", "\r\n2\r\n3,", r"sheet.csv: row 3: .* 1 columns"),
    ],
)
def test_errors_name_row_and_column(curated: Path, sheet: Path, old: str, new: str, message: str):
    text = sheet.read_bytes().decode("utf-8-sig")
    assert text.count(old) == 1
    sheet.write_bytes(text.replace(old, new).encode())
    with pytest.raises(M2raapError, match=message):
        judge_sheet(curated, sheet)


def test_a_sheet_of_another_run_is_refused(curated: Path, sheet: Path):
    with pytest.raises(M2raapError, match=r"audit-key.parquet: '.*'"):
        judge_sheet(curated / "filter" / ".." / ".." / "run" / "keyframes", swapped(sheet))
    with pytest.raises(M2raapError, match=r"audit-key.parquet: .*--out"):
        draw_sheet(curated, sheet, 4, 0)
    (sheet.parent / KEY).unlink()
    with pytest.raises(M2raapError, match=r"audit-key.parquet: "):
        judge_sheet(curated, sheet)


def swapped(sheet: Path) -> Path:
    """The sheet with a key that claims another reason."""
    table = pq.read_table(sheet.parent / KEY)
    reasons = ["link" if r != "kept" else r for r in table["reason"].to_pylist()]
    pq.write_table(table.set_column(table.schema.get_field_index("reason"), "reason", [reasons]), sheet.parent / KEY)
    return sheet


@settings(deadline=None)
@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_is_symmetric(pair: tuple[int, int]):
    count, total = pair
    low, high = wilson(count, total)
    assert 0 <= low <= count / total + 1e-12 and count / total - 1e-12 <= high <= 1
    other = wilson(total - count, total)
    assert low == pytest.approx(1 - other[1], abs=1e-12)


def test_wilson_is_the_published_one():
    """Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662; 0 of 20 gives 0 to 0.1611."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)

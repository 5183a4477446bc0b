import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from data_tools.world.still_set import write_stills
from m2raap.cli.main import app
from m2raap.core.errors import M2raapError, ThresholdNotMet
from m2raap.core.files import write_json
from m2raap.export.interpolate import check_floor, curve, curve_lines, keep_curve, write_mixture
from m2raap.export.measure import measure
from m2raap.export.stills import measure_stills, read_stills
from m2raap.models.config import BackboneConfig, MeanConfig
from m2raap.models.families import load_backbone
from m2raap.models.video_clip import VideoCLIP
from m2raap.report.data import ReportData
from m2raap.report.html import write_report
from m2raap.report.report import read_interpolation
from tests.stages.adapted import drawn_benchmark
from tests.stages.embedded import write_map

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    return write_stills(tmp_path_factory.mktemp("stills"), 16, seed=1)


def test_a_curve_runs_from_the_backbone_to_the_model(model: Path, table: Path, tmp_path: Path):
    view, stills = drawn_benchmark(tmp_path), read_stills(table)
    alphas = [0.0, 1.0]
    rows = curve(model, [1.0], {"drawn": view}, stills)
    row_of = {(row["set"], row["lang"], row["direction"], row["alpha"]): row for row in rows}
    assert set(row_of) == {
        (name, lang, direction, alpha)
        for name in ("drawn", "stills") for lang in ("en", "zh") for direction in ("t2v", "v2t") for alpha in alphas
    }  # fmt: skip
    backbone = VideoCLIP(load_backbone(BackboneConfig()), MeanConfig())
    ends = {0.0: backbone, 1.0: VideoCLIP.load(model)}
    for alpha, clip in ends.items():
        for name, what in (("drawn", measure(view, clip)), ("stills", measure_stills(stills, clip))):
            for row in what.r1():
                mine = row_of[name, row["lang"], row["direction"], alpha]
                assert (mine["r1"], mine["queries"]) == (row["r1"], row["queries"])
                assert mine["diff"] == pytest.approx(row["r1"] - row_of[name, row["lang"], row["direction"], 0.0]["r1"])
    assert len(curve_lines(rows)) == len(rows)

    write_map(tmp_path, [])
    keep_curve(tmp_path, rows)
    kept = read_interpolation(tmp_path)
    assert [(row.set, row.alpha, row.diff) for row in kept] == [(row["set"], row["alpha"], row["diff"]) for row in rows]
    write_report(ReportData("t", False, interpolation=kept), tmp_path / "report.html", tmp_path / "report.json")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert html.count("to the backbone</th>") == 8 and "Between the backbone and the model" in html


def test_one_mixture_is_written_as_a_model_folder(model: Path, tmp_path: Path):
    words = ["model", "interpolate", str(model), "--alpha", "0.3", "--out", str(tmp_path / "mixed"), "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert VideoCLIP.load(tmp_path / "mixed").digest == json.loads(done.stdout)["model"]
    card = json.loads((tmp_path / "mixed" / "model.json").read_text())
    assert card["made_from"]["interpolated"] == {"alpha": 0.3, "adapted": VideoCLIP.load(model).digest}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--alpha", "0.5"], "--alpha 0.5 --out"),
        (["--alpha", "0.5", "--out", "x", "--stills", "t.csv"], "--stills"),
        (["--alphas", "0,half"], "--alphas 0,half: expected numbers"),
        (["--alphas", "0,nan"], "alpha nan: it runs from 0"),
        (["--alphas", "0,0.5", "--floor", "-1"], "--alphas 0,0.5: --floor"),
        (["--alphas", "0,1", "--run", "nowhere"], "nowhere: no such folder"),
        ([], "--bench NAME=KEYFRAMES or --stills TABLE"),
    ],
)
def test_wrong_options_are_named(model: Path, more: list[str], message: str):
    done = CliRunner().invoke(app, ["model", "interpolate", str(model), *more])
    assert message in str(done.exception)


def test_stills_by_galleries_and_the_floor(model: Path, table: Path):
    stills = read_stills(table)
    whole, shares = (measure_stills(stills, VideoCLIP.load(model), gallery) for gallery in (None, 8))
    assert {row["queries"] for row in whole.r1()} == {row["queries"] for row in shares.r1()} == {16}
    assert {row["gallery"] for row in shares.ranks} == {8} and {row["gallery"] for row in whole.ranks} == {16}
    assert all(few["r1"] >= many["r1"] for few, many in zip(shares.r1(), whole.r1(), strict=True))
    rows = curve(model, [1.0], {}, stills, 8)
    assert {row["alpha"] for row in rows} == {0.0, 1.0}
    check_floor(rows, -100.0)
    with pytest.raises(ThresholdNotMet, match=r"\+100"):
        check_floor(rows, 100.0)


def test_the_floor_on_the_command_line(model: Path, table: Path):
    words = ["model", "interpolate", str(model), "--stills", str(table), "--alphas", "0,1", "--json", "--floor"]
    done = CliRunner().invoke(app, [*words, "100"])
    assert isinstance(done.exception, ThresholdNotMet) and len(json.loads(done.stdout)["rows"]) == 8
    assert CliRunner().invoke(app, [*words, "-100"]).exit_code == 0


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"caption_en": "a"}', "row 1 has no 'image'"),
        ('{"image": "../x.png", "caption_en": "a"}', "row 1: ../x.png: outside_root"),
        ('{"image": "x.png", "caption_en": "a"}', "row 1: x.png: missing_file"),
        ("not json", "row 1 "),
        ("[1]", "row 1 "),
        ('{"image": "x.png", "caption_en": "a\u2028b"}\n\n', "row 1: x.png: missing_file"),
        ("", "no row has a caption_en or caption_zh"),
    ],
)
def test_a_bad_table_is_named(tmp_path: Path, lines: str, message: str):
    (tmp_path / "stills.jsonl").write_text(lines, encoding="utf-8")
    with pytest.raises(M2raapError, match=message):
        read_stills(tmp_path / "stills.jsonl")


def test_stills_in_csv(table: Path, tmp_path: Path):
    (tmp_path / "a.png").write_bytes((table.parent / "images" / "000000.png").read_bytes())
    (tmp_path / "stills.csv").write_text("image,caption_en,caption_zh\na.png,a red circle,\n", encoding="utf-8")
    assert read_stills(tmp_path / "stills.csv").texts == [(0, "en", "a red circle")]


def test_a_model_that_names_no_backbone_is_refused(model: Path, tmp_path: Path):
    VideoCLIP.load(model).save(tmp_path / "model")
    with pytest.raises(M2raapError, match="model.json"):
        write_mixture(tmp_path / "model", 0.5, tmp_path / "out")


@pytest.mark.parametrize(
    ("made_from", "message"),
    [
        ([], "model.json"),
        ({"adapt": 3}, "model.json"),
        ({"backbone": {"modle": "x"}}, "'modle'"),
    ],
)
def test_a_damaged_model_json_is_named(model: Path, tmp_path: Path, made_from: object, message: str):
    shutil.copytree(model, tmp_path / "model")
    card = json.loads((model / "model.json").read_text())
    write_json(tmp_path / "model" / "model.json", card | {"made_from": made_from})
    with pytest.raises(M2raapError, match=message):
        write_mixture(tmp_path / "model", 0.5, tmp_path / "mixed")


def test_a_floor_that_is_no_number_is_not_met(model: Path, table: Path):
    with pytest.raises(ThresholdNotMet):
        check_floor(curve(model, [1.0], {}, read_stills(table)), float("nan"))


def test_a_table_keeps_odd_characters_in_their_cell(table: Path):
    name = next(
        path.relative_to(table.parent) for path in sorted(table.parent.rglob("*")) if path.suffix in (".jpg", ".png")
    )
    odd = table.parent / "odd.csv"
    odd.write_text(f'image,caption_en\n{name},"one\u2028two\nthree"\n', encoding="utf-8")
    assert read_stills(odd).texts == [(0, "en", "one\u2028two\nthree")]
    before = csv.field_size_limit(100_000)  # of the whole process: what runs before this test may have raised it
    try:
        odd.write_text(f"image,caption_en\n{name},{'a' * 200_000}\n", encoding="utf-8")
        with pytest.raises(M2raapError, match="cannot be read as csv"):
            read_stills(odd)
    finally:
        csv.field_size_limit(before)

"""`m2raap evaluate` with a bank: made of a training corpus beside the results, and used again."""

from __future__ import annotations

from pathlib import Path

from m2raap.core.corpus import write_corpus
from m2raap.core.files import read_json
from tests.conftest import m2raap
from tests.stages.adapted import drawn_benchmark


def test_a_bank_is_made_of_a_training_corpus_and_used_again(tmp_path: Path):
    drawn_benchmark(tmp_path)
    names = {"dog": "狗", "cat": "猫", "tree": "树", "boat": "船"}
    clips = [{"clip_id": name, "video": f"{name}.mp4", "split": "train"} for name in names]
    texts = [
        {"text_id": f"{name}.{lang}", "clip_id": name, "lang": lang, "text": text, "origin": "raw", "active": True}
        for name, chinese in names.items()
        for lang, text in (("en", f"a {name} on a hill"), ("zh", f"山上有一只{chinese}"))
    ]
    texts[0]["text"] = "A RED circle."  # a query of the benchmark
    write_corpus(tmp_path / "C", clips, texts, video_root=tmp_path, source={}, num_parts=1)
    m2raap("embed", tmp_path / "keyframes", "--out", tmp_path / "E")
    words = ("evaluate", tmp_path / "E", "--json", "--out")
    m2raap(*words, tmp_path / "V", "--bank", tmp_path / "C")
    bank = read_json(tmp_path / "V-bank" / "bank.json")
    assert len(bank["texts"]) == 7 and len(bank["clip_ids"]) == 4 and "A RED circle." not in bank["texts"]

    m2raap(*words, tmp_path / "W", "--bank", tmp_path / "V-bank")
    results = [path.name for path in sorted((tmp_path / "W").glob("results-*.json"))]
    assert any("qb_norm" in name for name in results)
    for name in results:
        assert read_json(tmp_path / "W" / name)["rows"] == read_json(tmp_path / "V" / name)["rows"]
    done = m2raap(*words, tmp_path / "X", "--bank", tmp_path / "V-bank", "--without", tmp_path / "bench", check=2)
    assert str(tmp_path / "V-bank") in done.stderr and not (tmp_path / "X").exists()

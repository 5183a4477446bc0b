import re
from pathlib import Path

import pytest

from m2raap.core.corpus import open_corpus, write_corpus
from m2raap.core.errors import M2raapError
from m2raap.core.files import read_json, write_json
from m2raap.core.replace import replacing
from m2raap.export.card import _summary, _Tally, dataset_card, plain
from m2raap.export.corpus import curated_view
from m2raap.pipeline.run_folder import RunFolder
from tests.conftest import sign_again
from tests.runs import copied


def test_the_card_has_the_counts_of_the_stages(curated: Path):
    card = dataset_card(curated)
    view = curated_view(curated)
    parts = list(view.parts())
    clips, texts = sum(len(part.clips) for part in parts), sum(len(part.texts) for part in parts)
    assert card.startswith("# small\n") and f"{clips} clips (" in card and f") with {texts} texts (" in card
    assert view.corpus.digest in card and view.digest in card
    assert f"| world | CC0-1.0 | {view.corpus.counts['clips']} | {clips} |" in card
    for index in range(view.num_parts):
        for row in view.dropped(index):
            assert re.search(rf"\| {row['stage']} \| {row['reason']} \| (clips|texts) \| \d+ \|", card), row
            assert row["rule_version"] in card
    counts = read_json(curated / "filter" / "manifest.json")["counts"]
    assert f"| filter | clips | {counts['clips_in']} | 0 | " in card
    for heading in ("Sources and licences", "Stages", "Dropped", "Texts", "Rules and thresholds", "Known limits"):
        assert f"\n## {heading}\n" in card
    assert "No text and no frame left this machine." in card
    assert "Synthetic world" in card and "m2raap data audit" in card


def test_captions_of_frames_are_counted_apart_from_texts(curated: Path):
    tally = _Tally()
    tally.texts.update({("en", "raw"): 3, ("zh", "translation"): 2, ("en", "aux"): 40})
    first = _summary(curated_view(curated), tally, {"name": "small"}).splitlines()[0]
    assert "5 texts (3 en, 2 zh) and 40 auxiliary captions" in first


def test_what_went_to_a_server_is_counted(curated: Path, small_world: Path, tmp_path: Path):
    run, _ = copied(curated, small_world, tmp_path)
    counts = read_json(run / "rewrite" / "manifest.json")["counts"]
    sign_again(run / "rewrite", counts=counts | {"texts_sent_to:api.example.org": 1234})
    assert "| rewrite | texts | api.example.org | 1,234 |" in dataset_card(run)


def test_strangers_words_make_no_markup(curated: Path, small_world: Path, tmp_path: Path):
    hostile = (
        "# Big\n[click](https://x.test) ![i](http://y.test/p.png) <script>x</script> `c` a|b *b* _u_ www.z.test @me"
    )
    hostile += " \u202eevil"
    corpus = open_corpus(small_world / "train")
    clips = [row | {"source": hostile, "licence": None} for row in corpus.all_rows("clips")]
    texts = [row | {"producer": hostile} for row in corpus.all_rows("texts")]
    run, world = copied(curated, small_world, tmp_path)
    train = world / "train"
    more = {"video_root": corpus.video_root, "source": {}, "num_parts": corpus.num_parts}
    with replacing(True):
        hostile_corpus = write_corpus(train, clips, texts, **more)
    before: dict[str, str] = {}
    for stage in ("filter", "keyframes", "rewrite"):  # as if the stages had been made from it
        inputs = read_json(run / stage / "manifest.json")["inputs"]
        sign_again(run / stage, inputs=inputs | {"corpus": hostile_corpus.digest} | before)
        before[stage] = read_json(run / stage / "manifest.json")["digest"]
    card = dataset_card(run)
    assert "state no licence" in card
    bare = re.sub(r"\\.", "", card)  # what is left is markup
    for piece in ("<script", "](", "![", "`c`", "*b*", " _u_", "www.", "://", "\u202e", "@me"):
        assert piece not in bare, piece
    rows = [line for line in card.splitlines() if "Big" in line]
    assert rows and all(len(re.findall(r"(?<!\\)\|", row)) in (4, 5) for row in rows), "a bar splits no cell"
    assert not any(line.startswith("# Big") for line in card.splitlines())


@pytest.mark.parametrize("text", ["1. one", "- list", "# h", "> q", "+ p", "=== ", "___", "~~~", "a_b", "CC-BY-4.0"])
def test_a_line_of_plain_text_begins_no_block(text: str):
    assert re.match(r"\w+[\w.-]*$|\\|\d+\\[.)]", plain(text)) or plain(text)[0] == "\\"


@pytest.mark.parametrize("value", [0.5, 300.0, -3, "-0.2", "127.0.0.1", "（测试）"])
def test_numbers_addresses_and_brackets_stay_as_they_are(value: object):
    assert plain(value) == str(value)


def test_a_run_without_a_finished_stage_is_refused(curated: Path, tmp_path: Path):
    with pytest.raises(M2raapError, match=str(tmp_path)):
        dataset_card(tmp_path)
    tree = RunFolder.open(curated).tree
    write_json(tmp_path / "run.json", tree | {"steps": []})
    with pytest.raises(M2raapError, match=str(tmp_path)):
        dataset_card(tmp_path)


def test_a_damaged_map_of_a_run_is_refused(curated: Path, tmp_path: Path):
    tree = RunFolder.open(curated).tree
    for key in tree:
        write_json(tmp_path / "run.json", {name: value for name, value in tree.items() if name != key})
        with pytest.raises(M2raapError, match=rf"run.json: {key}: "):
            RunFolder.open(tmp_path)

"""The tiny bilingual CLIP of the package, its tokenizer and its trainer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch

import m2raap
from data_tools import tiny_clip
from data_tools.world import exam, patches
from data_tools.world.grammar import ALL_PAIRS, Event, Obj, Shot
from data_tools.world.palette import COLOUR_RGB
from data_tools.world.stills import caption, facts, looks, mirrored, prompt, sample_shot, take, true_of
from data_tools.world.tokenizer import motion_token_ids
from data_tools.world.words import EN_VERB, ZH_VERB

FOLDER = Path(next(iter(m2raap.__path__))) / "assets" / "tiny_bilingual_clip"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def loaded() -> SimpleNamespace:
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{FOLDER}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{FOLDER}")
    return SimpleNamespace(model=model.eval(), tokenize=tokenize)


def test_the_packaged_model_names_stills_it_has_not_seen_and_knows_left_from_right() -> None:
    accuracy = exam.evaluate(FOLDER, n=300, seed=77)
    for lang in ("en", "zh"):
        named, order = accuracy["named"][lang], accuracy["order"][lang]
        assert named["accuracy"] >= 0.96 and order["accuracy"] >= 0.95 and order["cosine"] < 0.7, accuracy
        assert named["n"] == order["n"] == 300 and named["low"] < named["accuracy"] <= named["high"]


def test_the_files_are_small() -> None:
    assert sum(p.stat().st_size for p in FOLDER.iterdir()) < 12e6
    assert "Apache-2.0" in (FOLDER / "CARD.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text",
    ["a red circle", "一个红色圆形向右移动", "Ünïcödé ☃ 🎬 слово 日本語", "", "龘" * 80, "word " * 100, "ａｂｃ"],
)
def test_any_text_has_tokens_and_ends_with_the_highest_id(loaded: SimpleNamespace, text: str) -> None:
    ids = loaded.tokenize([text])[0]
    end = int(ids.argmax())
    assert ids.shape == (tiny_clip.CONTEXT_LENGTH,) and ids[end] == loaded.model.vocab_size - 1
    assert (ids[end + 1 :] == 0).all() and (ids[:end] != 0).all()


def test_tokens_can_be_read_back_and_words_of_the_world_are_whole(loaded: SimpleNamespace) -> None:
    raw = loaded.tokenize.tokenizer
    for text in ("two small pink crosses on a striped background", "格子背景下三个青色沙漏消失了", "☃ 🎬 слово"):
        assert raw.decode(raw(text).input_ids, skip_special_tokens=True) == text
    assert len(raw("a purple hourglass vanishes").input_ids) == 2 + 4
    assert len(raw("红色圆形").input_ids) == 2 + 4
    assert raw("A RED Circle").input_ids == raw("a red circle").input_ids == raw("ａ red circle").input_ids


def test_every_motion_word_is_kept_out_of_the_training(loaded: SimpleNamespace) -> None:
    motion = motion_token_ids(loaded.tokenize)
    rng = np.random.default_rng(0)
    texts = [caption(sample_shot(rng, i % 3 == 0), lang, rng)[0] for i in range(150) for lang in ("en", "zh")]
    verbs = {v for forms in EN_VERB.values() for f in forms for v in f[:2] if v not in ("is", "are", "")}
    assert not [t for t in texts if any(f" {v} " in f" {t} " for v in verbs)]
    assert not [t for t in texts if any(v in t for forms in ZH_VERB.values() for v in forms)]
    plain = np.array([i for i in range(300, loaded.model.vocab_size - 1) if i not in motion])
    ids = loaded.tokenize(texts)
    noisy = tiny_clip.with_noise(ids, plain, rng, share=1.0)
    assert (noisy.argmax(1) > ids.argmax(1)).all() and (noisy[:, 0] == ids[:, 0]).all()
    assert (noisy.max(1).values == loaded.model.vocab_size - 1).all()
    extra = set(noisy.unique().tolist()) - set(ids.unique().tolist())
    assert extra and not extra & motion


def test_short_paths_give_what_open_clip_gives(loaded: SimpleNamespace) -> None:
    ids = loaded.tokenize(["a red circle", "三个青色沙漏 on a striped background"])
    pixels = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    every = torch.stack([torch.randperm(36, generator=torch.Generator().manual_seed(i)) for i in range(2)])
    with torch.no_grad():
        assert torch.allclose(tiny_clip.encode_text(loaded.model, ids), loaded.model.encode_text(ids), atol=1e-5)
        whole = loaded.model.encode_image(pixels)
        for keep in (None, every):
            tokens, inner = tiny_clip.encode_tokens(loaded.model.visual, pixels, keep)
            assert torch.allclose(tokens[:, 0], whole, atol=1e-5) and inner.shape == (2, 37, 128)


def test_kept_patches_cover_the_objects() -> None:
    objects = np.zeros((2, 96, 96), bool)
    objects[0, 30:50, 10:40] = True
    kept = patches.patches_to_keep(objects, 6, 20, np.random.default_rng(0))
    covered = {y // 16 * 6 + x // 16 for y, x in np.argwhere(objects[0]).tolist()}
    assert covered <= set(kept[0].tolist()) and len(set(kept[0].tolist())) == len(set(kept[1].tolist())) == 20


def test_outlines_against_a_slow_twin() -> None:
    objects = np.random.default_rng(0).random((2, 96, 96)) < 0.3
    found = patches.outlines(objects, 6)
    for picture, patch, part in ((0, 0, 0), (1, 13, 7), (0, 35, 15), (1, 20, 4)):
        y, x = patch // 6 * 16 + part // 4 * 4, patch % 6 * 16 + part % 4 * 4
        assert found[picture, patch, part] == pytest.approx(objects[picture, y : y + 4, x : x + 4].mean())


def test_rate_rises_stays_and_falls() -> None:
    shares = [tiny_clip.rate(s, 100, 200, 400) for s in range(401)]
    assert shares[0] == shares[99] == 0 < shares[100] < shares[139] == shares[200] == 1
    assert shares[300] == 0.5 and shares[400] == 0.02


def test_places_of_neighbours_are_alike() -> None:
    place = patches.places(8, 160)
    one = place / np.linalg.norm(place, axis=1, keepdims=True)
    alike = one @ one.T
    assert np.allclose(alike.diagonal(), 1) and alike[27, 28] > alike[27, 29] > alike[27, 31]


def test_cosines_are_different_and_complete() -> None:
    found = patches.cosines(192, 8).reshape(192, -1)
    assert np.linalg.matrix_rank(found) == 192
    flat = np.abs(found.reshape(192, 3, 64).sum(axis=2)).max(axis=1) > 1e-4
    assert flat.tolist() == [True] * 3 + [False] * 189


def test_batches_depend_on_the_seed_alone() -> None:
    one, two = (tiny_clip.make_batch(6, 0.5, [3, 1, 4]) for _ in range(2))
    assert one.texts == two.texts and np.array_equal(one.images, two.images) and np.array_equal(one.facts, two.facts)
    assert one.images.shape == (6, 48, 48, 3) and one.objects.shape == (6, 96, 96)
    assert true_of(one.claims, one.facts).diagonal().all()
    assert tiny_clip.make_batch(6, 0.5, [3, 1, 5]).texts != one.texts


def _true_of_slowly(shot: Shot, other: Shot, claims: np.ndarray) -> bool:
    """Whether a caption of `shot` with these claims is true of a picture of `other`; the events stand from left to right."""
    if claims[4] >= 0 and shot.background != other.background:
        return False
    places = []
    for i, event in enumerate(shot.events):
        for place, seen in enumerate(other.events):
            same = (event.obj.pair, event.obj.count) == (seen.obj.pair, seen.obj.count)
            if same and (claims[2 * i + 1] < 0 or seen.motion in ("grow", "shrink") or seen.obj.size == event.obj.size):
                places.append(place)
                break
        else:
            return False
    return places == sorted(places)


def test_claims_against_a_slow_twin() -> None:
    rng = np.random.default_rng(4)
    shots = [sample_shot(rng, two=bool(i % 2)) for i in range(60)]
    one, two = Obj("star", "red", "small"), Obj("ring", "blue", "large")
    for events in (
        (one,),
        (two,),
        (one, two),
        (two, one),
        (Obj("star", "red", "large"), two),
        (Obj("star", "red", count=2),),
    ):
        for background in ("plain", "waves"):
            shots.append(Shot(tuple(Event(o) for o in events), background))
    shots.append(Shot((Event(one, "grow"),), "plain"))
    claims = np.stack([caption(s, "en", rng)[1] for s in shots])
    fast = true_of(claims, np.stack([facts(s) for s in shots]))
    slow = [[_true_of_slowly(a, b, c) for b in shots] for a, c in zip(shots, claims, strict=True)]
    assert np.array_equal(fast, np.array(slow)) and fast.diagonal().all() and fast.sum() > len(shots)
    forward, backward = 64, 66  # (one, two) and (two, one) on a plain background
    assert shots[forward].events == shots[backward].events[::-1]
    assert not fast[forward, backward] and not fast[backward, forward]
    assert fast[60, forward] and fast[60, backward]  # a caption of one of them is true of both


def test_looks_add_up_to_one() -> None:
    rng = np.random.default_rng(1)
    shots = [sample_shot(rng, two=bool(i % 2)) for i in range(20)]
    found = looks(np.stack([facts(s) for s in shots]))
    for name, size in (("pair", 100), ("first", 100), ("colour", 10), ("shape", 10), ("count", 3)):
        assert found[name].shape == (20, size) and np.allclose(found[name].sum(axis=1), 1)
    assert found["pair"][0].argmax() == ALL_PAIRS.index(shots[0].events[0].obj.pair)
    assert [int(i) for i in found["first"].argmax(axis=1)] == [ALL_PAIRS.index(s.events[0].obj.pair) for s in shots]


def test_contrast_leaves_true_captions_of_other_pictures_out() -> None:
    image = torch.nn.functional.normalize(torch.tensor([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.3]]), dim=-1)
    alone, scale = torch.eye(3, dtype=torch.bool), torch.tensor(5.0)
    twins = alone.clone()
    twins[0, 1] = twins[1, 0] = True
    rows = (scale * image @ image.T).numpy().astype(float)

    def slow(true: np.ndarray) -> float:
        both = []
        for logits, mask in ((rows, true), (rows.T, true.T)):
            for i in range(3):
                others = [np.exp(logits[i, j]) for j in range(3) if j == i or not mask[i, j]]
                both.append(np.log(sum(others)) - logits[i, i])
        return float(np.mean(both))

    for true in (alone, twins):
        assert float(tiny_clip.contrast(image, image, scale, true)) == pytest.approx(slow(true.numpy()), abs=1e-5)
    assert slow(twins.numpy()) < slow(alone.numpy())


def test_stills_and_prompts() -> None:
    shot = Shot((Event(Obj("heart", "green")),), "dots")
    one = take(shot, np.random.default_rng(1))
    assert one.image.shape == (96, 96, 3) and one.image.dtype == np.uint8 and 100 < one.objects.sum() < 2000
    assert np.array_equal(one.image, take(shot, np.random.default_rng(1)).image)
    assert prompt(("red", "circle"), "en") == "a red circle" and prompt(("red", "circle"), "zh") == "一个红色圆形"
    assert len({prompt(p, lang) for p in ALL_PAIRS for lang in ("en", "zh")}) == 200


def test_the_first_noun_is_the_left_object_and_a_mirror_image_swaps_them() -> None:
    """The colour of each side is measured on the picture."""
    rng = np.random.default_rng(3)
    swapped = 0
    for _ in range(40):
        pick = sample_shot(rng, two=True, count=1)
        colours = ("red", "blue") if rng.random() < 0.5 else ("blue", "red")
        events = tuple(replace(e, obj=replace(e.obj, colour=c)) for e, c in zip(pick.events, colours, strict=True))
        still = take(replace(pick, events=events, background="plain"), rng, compress=False)
        for one in (still, mirrored(still)):
            flat = one.image.reshape(-1, 3).astype(float)
            columns = np.tile(np.arange(96), 96)[one.objects.ravel()]
            near = {
                c: columns[(np.abs(flat - COLOUR_RGB[c]).sum(axis=1) < 60)[one.objects.ravel()]]
                for c in ("red", "blue")
            }
            left = "red" if near["red"].mean() < near["blue"].mean() else "blue"
            assert one.shot.events[0].obj.colour == left
            text, claims = caption(one.shot, "en", rng)
            assert text.index(left) < text.index("blue" if left == "red" else "red")
            assert claims[0] // 30 == list(COLOUR_RGB).index(left)
        assert mirrored(mirrored(still)).shot == still.shot
        swapped += still.shot.events[0].obj.colour != colours[0]
    assert 8 < swapped < 32  # the order in which a shot is drawn says nothing of the places


def test_pictures_of_two_objects_come_with_their_mirror_image() -> None:
    batch = tiny_clip.make_batch(60, 0.5, [0, 1, 2])
    two = np.flatnonzero(batch.facts[:, 2] >= 0)
    assert 20 < len(two) < 60
    for one, other in zip(two[::2].tolist(), two[1::2].tolist(), strict=False):
        assert other == one + 1 and batch.facts[one].tolist() == [*batch.facts[other][[2, 3, 0, 1, 4]]]
        assert np.array_equal(batch.objects[one], batch.objects[other][:, ::-1])


def test_order_hits_of_models_that_know_the_order_do_not_and_mix_it_up() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2, 50, 8))
    texts, swapped = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    assert exam.order_hits(texts, swapped, texts, swapped) == 100
    assert exam.order_hits(swapped, texts, texts, swapped) == 0
    assert (
        exam.order_hits(texts, texts, texts, swapped) == 50
    )  # every picture as its mirror image: one of both is right
    assert exam.order_hits(texts, swapped, texts, texts) == 50  # ties


def test_wilson_interval() -> None:
    assert exam.wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-3)
    assert exam.wilson(100, 100)[1] == pytest.approx(1.0)


def test_a_few_steps_train_and_save_a_folder_that_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def accuracy(folder: Path, n: int, seed: int) -> dict:
        row = {"accuracy": 0.1, "low": 0.0, "high": 0.2, "n": n}
        return {"named": {"en": row}, "order": {"en": row | {"cosine": 0.5}}}

    monkeypatch.setattr(tiny_clip, "evaluate", accuracy)
    (tmp_path / "work").mkdir()
    out = tmp_path / "out"
    tiny_clip.train(out, tmp_path / "work", steps=3, seed=0, threads=1, batch=8)
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{out}")
    assert (out / "tokenizer.json").read_bytes() == (FOLDER / "tokenizer.json").read_bytes()
    assert (out / "open_clip_config.json").read_bytes() == (FOLDER / "open_clip_config.json").read_bytes()
    assert sum(p.numel() for p in model.parameters()) < 5e6
    card = (out / "CARD.md").read_text(encoding="utf-8")
    assert "of n = 2000 stills" in card and "cosine of the two texts 0.500" in card

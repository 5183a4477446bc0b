"""The page in a real browser. Skipped where no Chromium is installed (M2RAAP_CHROMIUM may name one)."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest

from m2raap.search.search import Search
from m2raap.search.server import SearchServer
from tests.search.browser import Browser, Page, find_browser
from tests.search.conftest import serving
from tests.search.hostile import CLIPS, TAGS, TEXTS
from tests.search.world import index_of, rows, tagged

PLAYS = "video.readyState >= 2 && video.played.length > 0 && video.currentTime > playing.time"
IDS = "[...document.querySelectorAll('.hit .facts')].map(node => node.textContent.split(' · ')[0])"
ALL_SHOWN = "[...document.querySelectorAll('#hits img')].every(image => image.complete && image.naturalWidth > 0)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium is installed (apt-get install chromium): the page is not tested in a real browser")
    with Browser(program, tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture
def page(browser: Browser, server: SearchServer) -> Iterator[Page]:
    tab = browser.page()
    tab.size(1280, 800)
    tab.go(server.url)
    tab.until("document.querySelectorAll('#examples button').length > 0")
    yield tab
    assert tab.faults == []
    tab.close()


def test_query_play_and_more_like_this(page: Page) -> None:
    page.click("#query")
    page.write("a red circle")
    page.click("#ask button")
    assert page.until(f"document.querySelector('.hit') && {IDS}")[:2] in (["c0", "c4"], ["c4", "c0"])
    page.until(ALL_SHOWN)
    assert page.js("document.querySelectorAll('.hit:first-child .frame.best').length") == 1
    page.click(".hit:first-child .frame", 1)
    page.until(PLAYS)
    assert page.js("playing.time") == 1.0, "the second frame's time"
    page.click("#close")
    page.until("!player.open && video.paused")
    page.click(".hit:first-child button.small", 1)
    page.until("location.hash.includes('like=') && document.querySelectorAll('.hit').length === 7")
    assert page.js(IDS)[0] in ("c0", "c4")
    page.js("history.back()")
    page.until("query.value === 'a red circle' && document.querySelectorAll('.hit').length === 8")


def test_pictures_move_nothing_when_they_come(browser: Browser, search: Search, monkeypatch) -> None:
    places = "[...document.querySelectorAll('.hit, .hit button')].flatMap(node => " \
             "Object.values(node.getBoundingClientRect().toJSON()))"  # fmt: skip
    come, jpegs = threading.Event(), search.jpegs
    monkeypatch.setattr(search, "jpegs", lambda clip_id: jpegs(clip_id) if come.wait(20) else [])
    with serving(search) as server:
        page = browser.page()
        page.size(1280, 800)
        page.go(f"{server.url}#q=red")
        page.until("document.querySelectorAll('.hit').length === 8")
        assert page.js("[...document.querySelectorAll('#hits img')].every(image => !image.naturalWidth)")
        before = page.js(places)
        come.set()
        page.until(ALL_SHOWN)
        assert page.js(places) == before and len(before) > 8 * 8 * 4
        width, height = page.js(
            "(box => [box.width, box.height])(document.querySelector('.frame').getBoundingClientRect())"
        )
        assert width == pytest.approx(height, abs=1), "the shape of its pictures, not the style sheet's"
        page.close()


def test_by_keyboard_alone(page: Page) -> None:
    page.press("/")
    page.write("a blue circle")
    page.press("Enter")
    page.until("document.activeElement.matches('.hit:first-child')")
    assert page.js(IDS)[0] in ("c1", "c5")
    page.press("ArrowRight")
    page.until("document.activeElement.matches('.hit:nth-child(2)')")
    page.press("ArrowDown")
    page.until("document.activeElement.matches('.hit:nth-child(4)')")  # two columns
    for key in ("ArrowUp", "ArrowLeft", "Enter"):
        page.press(key)
    page.until(PLAYS)
    hit = page.js("playing.hit")
    assert hit["clip_id"] in ("c1", "c5") and page.js("playing.time") == hit["frames"][0]["time_s"] >= 0.5
    page.press("Escape")
    page.until("!player.open && document.activeElement.matches('.hit:first-child')")
    page.press("l")
    page.until("document.querySelectorAll('.hit').length === 7 && document.activeElement.matches('.hit:first-child')")
    page.press("/")
    page.until("document.activeElement.id === 'query'")


def test_a_clip_ends_where_it_ends(page: Page) -> None:
    page.js("show({like: 'c5'})")  # c1 is nearest: 0.5 to 1.6 s of a video of 3 s
    page.until("state.hits.length && state.hits[0].clip_id === 'c1'")
    page.click(".hit:first-child .frame", 1)  # at 1.5 s
    page.until("video.paused && video.currentTime >= 1.6")
    assert page.js("video.currentTime") < 2.4


def test_in_chinese_on_a_phone(page: Page) -> None:
    page.size(390, 844, phone=True, dark=True)
    page.click("#language")
    assert page.js("document.documentElement.lang") == "zh-Hans"
    assert page.js("document.querySelector('#ask button').textContent") == "搜索"
    page.js("query.focus()")
    page.write("绿色的圆形")
    page.press("Enter")
    page.until("document.querySelectorAll('.hit').length === 8")
    assert page.js("document.querySelector('.hit .caption').textContent") == "绿色的圆形"
    assert page.js("document.documentElement.scrollWidth") == 390, "nothing stands out of the screen"
    assert page.js("[...document.querySelectorAll('.foot button')].every(b => b.getBoundingClientRect().height >= 40)")
    page.js("language.click()")
    assert page.js("document.querySelector('.hit .caption').textContent") == "a green circle"


def test_a_picture_and_a_video_that_is_not_there(page: Page) -> None:
    page.js("""new Promise(done => { const c = document.createElement('canvas'); c.width = c.height = 96;
        const pen = c.getContext('2d'); pen.fillStyle = '#0c0c0c'; pen.fillRect(0, 0, 96, 96); pen.fillStyle = 'rgb(230,210,40)';
        pen.arc(48, 48, 24, 0, 7); pen.fill();
        c.toBlob(blob => { show({picture: new File([blob], 'y.png', {type: 'image/png'})}).then(done) }, 'image/png') })""")
    assert page.js(IDS)[0] in ("c3", "c7")
    page.click(".hit:first-child button.primary")
    page.until("!document.getElementById('video-fault').hidden")
    page.press("Escape")
    page.until("!player.open")
    page.faults[:] = [fault for fault in page.faults if "404" not in fault]  # the console reports the missing video


def test_hostile_captions_ids_and_paths_are_inert(browser: Browser, tmp_path) -> None:
    assert len(TEXTS) == 60
    with serving(Search(index_of(tmp_path, CLIPS))) as server:
        page = browser.page()
        page.go(server.url)
        page.until("document.querySelectorAll('#examples button').length > 0")
        page.js("show({q: '<img src=x onerror=pwned=1>'})")
        page.until("document.querySelectorAll('.hit').length === 20")
        page.js("document.querySelectorAll('#hits img').forEach(image => { image.loading = 'eager' })")
        page.until(ALL_SHOWN)
        shown = set(page.js("[...document.querySelectorAll('.hit .caption')].map(node => node.textContent)")) | set(
            page.js(IDS)
        )
        for place in range(20):
            page.js(f"open(state.hits[{place}])")
            shown.add(page.js("document.querySelector('.path').textContent"))
            page.js("player.close()")
        page.js("show({like: state.hits[0].clip_id})")
        page.until("document.querySelectorAll('.hit').length === 19")
        assert page.js("[...document.querySelectorAll('main *, dialog *, header *')].map(node => node.tagName).filter("
                       "tag => !'P SECTION UL OL LI DIV SPAN BUTTON IMG H2 VIDEO FORM INPUT A LABEL SELECT OPTION'.split(' ')"
                       ".includes(tag))") == []  # fmt: skip
        assert page.js("[...document.images].every(image => new URL(image.src).origin === location.origin)")
        assert page.js("typeof pwned") == "undefined" and page.js("document.title.includes('m2raap')")
        seen = {text for text in TEXTS if visible(text) in shown}
        assert seen == set(TEXTS), set(TEXTS) - seen
        assert [fault for fault in page.faults if "404" not in fault] == []  # there are no videos
        page.close()


FACETS = "Object.fromEntries([...facets.querySelectorAll('button')].map(node => [node.dataset.tag, node.innerText]))"
NUM_FACETS = "document.querySelectorAll('#facets button').length"
PRESSED = "[...facets.querySelectorAll('[aria-pressed=true]')].map(node => node.dataset.tag)"


def test_tags_filter_and_a_second_click_removes_the_filter(browser: Browser, tmp_path) -> None:
    with serving(Search(index_of(tmp_path, tagged(rows(8))))) as server:
        page = browser.page()
        page.size(1280, 800)
        page.go(server.url)
        page.until(f"{NUM_FACETS} === 5")
        assert page.js("facets.querySelector('button').innerText.split('\\n')") == ["Circle", "8"]
        assert page.js("facets.querySelector('button').getAttribute('aria-label')") == "Circle, 8 clips"
        page.click("#facets button")  # a tag alone: the most probable first
        page.until("document.querySelectorAll('.hit').length === 8")
        assert page.js(IDS) == [f"c{number}" for number in range(8)] and page.js(PRESSED) == ["Circle"]
        assert "most probable" in page.js("document.getElementById('status').textContent") and page.js("start.hidden")
        page.js("facets.querySelector('[data-tag^=red]').focus()")
        page.press("Enter")
        page.until("document.querySelectorAll('.hit').length === 2")
        assert (
            page.js(PRESSED) == ["Circle", "red / 红色"]
            and page.js("document.activeElement.dataset.tag") == "red / 红色"
        )
        assert [f"{tag}\n2" for tag in ("Circle", "red / 红色")] == list(page.js(FACETS).values())
        page.click("#query")
        page.write("a blue circle")
        page.press("Enter")
        page.until("query.value && location.hash.includes('q=') && state.hits.length === 2")
        assert set(page.js(IDS)) == {"c0", "c4"}
        page.js("facets.querySelector('[data-tag^=red]').click()")
        page.until("state.hits.length === 8 && state.tags.length === 1")
        assert page.js(IDS)[0] in ("c1", "c5") and page.js(PRESSED) == ["Circle"]
        assert page.js("[...document.querySelectorAll('.hit:first-child .tag')].map(node => node.textContent)") == [
            "blue / 蓝色", "Circle",
        ], "and not the one that is improbable"  # fmt: skip
        page.click(".hit:first-child .tag")
        page.until("state.hits.length === 2 && document.activeElement.matches('.hit:first-child')")
        page.js("history.back()")
        page.until("state.hits.length === 8 && state.tags.length === 1")
        page.click("#language")
        assert page.js("document.getElementById('tags-name').textContent") == "标签"
        page.js("language.click()")
        page.go(f"{server.url}?#tag=rad")
        page.until(f"document.querySelector('#status.fault') && {NUM_FACETS} === 1")
        assert "did you mean 'red'" in page.js("document.getElementById('status').textContent")
        page.click("#facets button")
        page.until("facets.children.length === 5 && !start.hidden && !location.hash.includes('tag')")
        page.faults[:] = [fault for fault in page.faults if "400" not in fault]  # the console reports the refused tag
        assert page.faults == []
        page.close()


def test_an_index_without_tags_shows_nothing_of_them(page: Page) -> None:
    page.js("show({q: 'red'})")
    page.until("document.querySelectorAll('.hit').length === 8")
    assert page.js("tags.hidden && !document.querySelector('.tag')")
    assert page.js("[...document.querySelectorAll('.hit .facets')].every(node => node.hidden)")


def test_hostile_tags_are_inert(browser: Browser, tmp_path) -> None:
    clips = rows(8)
    for place, clip in enumerate(clips):
        clip["tags"] = [(tag, 0.9) for tag in TAGS[place * 3 : place * 3 + 3]]
    with serving(Search(index_of(tmp_path, clips))) as server:
        page = browser.page()
        page.size(390, 844, phone=True)
        page.go(server.url)
        page.until(f"{NUM_FACETS} === 20")
        shown = set()
        for tag in TAGS:
            page.js(f"state.tags = []; toggleTag({json.dumps(tag)})")
            page.until(
                f"state.hits.length === 1 && facets.querySelector('[aria-pressed=true]').dataset.tag === {json.dumps(tag)}"
            )
            shown.add(page.js("facets.querySelector('[aria-pressed=true] .name').textContent"))
            assert page.js("document.documentElement.scrollWidth") == 390, "nothing stands out of the screen"
        assert shown == {visible(tag) for tag in TAGS}
        page.js("state.tags = []; show({q: 'red'})")
        page.until("document.querySelectorAll('.hit .tag').length === 22")
        assert page.js("typeof pwned") == "undefined" and page.js("document.title.includes('m2raap')")
        assert page.js("[...document.querySelectorAll('main *')].map(node => node.tagName).filter("
                       "tag => !'P SECTION UL OL LI DIV SPAN BUTTON IMG'.split(' ').includes(tag))") == []  # fmt: skip
        for width in (390, 1280):
            page.size(width, 800)
            boxes = page.js(
                "[...document.querySelectorAll('.tag')].map(n => n.getBoundingClientRect()).map(b => [b.width, b.height])"
            )
            assert len(boxes) == 22 + 20 and all(box[0] <= 260.5 and box[1] <= 36.5 for box in boxes), (
                "whatever the name"
            )
            assert page.js("document.documentElement.scrollWidth") == width
        assert page.faults == []
        page.close()


def visible(text: str) -> str:
    hidden = {
        *range(9),
        *range(11, 32),
        *range(127, 160),
        0x200E,
        0x200F,
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
        0xFEFF,
    }
    return "".join("\ufffd" if ord(char) in hidden else char for char in text)

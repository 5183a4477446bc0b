from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from scenedetect import FrameTimecode
from scenedetect.output import write_scene_list

from m2raap.core.errors import M2raapError
from m2raap.video.scene_list import read_scene_list

HEADER = "Scene Number,Start Frame,Start Timecode,Start Time (seconds),End Time (seconds)\n"


@pytest.mark.parametrize("with_timecodes", [True, False])
def test_reads_what_pyscenedetect_writes(with_timecodes: bool, tmp_path: Path) -> None:
    edges = [FrameTimecode(frame, 30000 / 1001) for frame in (0, 32, 64, 200)]
    path = tmp_path / "x-Scenes.csv"
    with open(path, "w") as sink:
        write_scene_list(sink, list(pairwise(edges)), include_cut_list=with_timecodes)
    scenes = read_scene_list(path)
    for (start_s, end_s), (first, last) in zip(scenes, pairwise(edges), strict=True):
        # Every frame falls on its own side of the cut, although the file rounds to milliseconds.
        assert (first - 1).seconds < start_s <= first.seconds or first.frame_num == 0 == start_s
        assert (last - 1).seconds < end_s <= last.seconds


def test_other_spellings(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(
        b"\xef\xbb\xbfTimecode List:,00:00:01.000\r\n" + HEADER.replace("\n", "\r\n").encode() + b"1,1,t,0.5,2\r\n\r\n"
    )
    assert read_scene_list(path) == [(0.4995, 1.9995)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Start Time .seconds..*End Time .seconds."),
        ("a,b\n1,2\n" + HEADER, "row 1 or 2 .*Start Time"),
        (HEADER, r"x\.csv: .*--scenes"),
        (HEADER + "1,1,t,0.0,1.0\n2,26,t,one,2.0\n", "row 3, column 'Start Time .seconds.': 'one'"),
        (HEADER + "1,1,t,0.0\n", "row 2, column 'End Time .seconds.': ''"),
        (HEADER + "1,1,t,0.0,inf\n", "'inf'"),
        (HEADER + "1,1,t,-1,1\n", "'-1'"),
        (HEADER + "1,1,t,2.0,2.0\n", "row 2: .* 2 s"),
        (HEADER + "1,1,t,0,2\n2,1,t,1.5,3\n", "row 3: .* 1.5 s"),
    ],
)
def test_a_wrong_list_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(M2raapError, match=message) as error:
        read_scene_list(path)
    assert str(error.value).startswith(str(path))


def test_no_text_and_no_file(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"\xff\xfe\0")
    with pytest.raises(M2raapError, match=r"x\.csv: .*CSV"):
        read_scene_list(path)
    with pytest.raises(M2raapError, match=r"absent\.csv"):
        read_scene_list(tmp_path / "absent.csv")

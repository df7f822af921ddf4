import base64
import json
import re

import pytest

from pav_jax.errors import BadInput
from pav_jax.report import votes_page
from pav_jax.report.votes_page import write_votes_page
from tests.report.compared_videos import PROMPTS, read_key, write_measurements


def contents(text):
    """(the comparisons of a page, video -> its bytes)."""
    page = re.search(r'<script type="application/json" id="page">(.*?)</script>', text)[1]
    videos = re.findall(r'<script type="text/plain" id="video-(\w+)">(.*?)</script>', text)
    return json.loads(page)["comparisons"], {k: base64.b64decode(v) for k, v in videos}


def test_write_votes_page_is_blind(tmp_path):
    measurements = write_measurements(tmp_path)
    text = write_votes_page(tmp_path).read_text()
    comparisons, videos = contents(text)
    assert sorted(c["prompt"] for c in comparisons) == sorted(PROMPTS)
    body = text.partition("<body")[2]  # the style has colours for some systems
    assert "my_booster" not in text and "original" not in body
    assert "<script>alert" not in text
    page, key = read_key(tmp_path)
    assert page in text and key["systems"] == ["original", "my_booster"]
    systems = [[key["comparisons"][c["id"]]["videos"][v] for v in c["videos"]] for c in comparisons]
    assert all(sorted(pair) == ["my_booster", "original"] for pair in systems)
    assert len({tuple(pair) for pair in systems}) == 2  # the order of a pair tells nothing
    bytes_of = {(m.prompt, m.system): (tmp_path / m.video).read_bytes() for m in measurements}
    for comparison, pair in zip(comparisons, systems, strict=True):
        for video, system in zip(comparison["videos"], pair, strict=True):
            assert videos[video] == bytes_of[comparison["prompt"], system]


def test_write_votes_page_is_deterministic(tmp_path):
    write_measurements(tmp_path)
    assert write_votes_page(tmp_path).read_bytes() == write_votes_page(tmp_path).read_bytes()
    assert len(list((tmp_path / "votes").iterdir())) == 1


def test_write_votes_page_of_several_systems(tmp_path):
    write_measurements(tmp_path, ("original", "base", "dpo_1", "shuffled"))
    path = write_votes_page(tmp_path, ["dpo_1", "base", "original"], num_comparisons=8)
    comparisons, videos = contents(path.read_text())
    assert len(comparisons) == 6  # two for each pair
    assert len(videos) == 6  # of two prompts, each once
    assert "shuffled" not in read_key(tmp_path)[1]["systems"]


def test_write_votes_page_without_equal_videos(tmp_path):
    measurements = write_measurements(tmp_path)
    lines = (tmp_path / "evaluation" / "measurements.jsonl").read_text()
    same = lines.replace("videos/my_booster0.mp4", "videos/original0.mp4")
    (tmp_path / "evaluation" / "measurements.jsonl").write_text(same)
    (tmp_path / "videos" / "my_booster1.mp4").unlink()
    comparisons, _ = contents(write_votes_page(tmp_path).read_text())
    assert {c["prompt"] for c in comparisons} == {m.prompt for m in measurements[4:]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(systems=["dpo_9"]), "'dpo_9' was not evaluated; there are original, my_booster"),
        (dict(systems=["original"]), "name two or more of original, my_booster"),
        (dict(num_comparisons=0), "at least one comparison"),
    ],
)
def test_write_votes_page_invalid(options, message, tmp_path):
    write_measurements(tmp_path)
    with pytest.raises(BadInput, match=message) as error:
        write_votes_page(tmp_path, **options)
    assert error.value.source in ("--systems", "--comparisons")


def test_write_votes_page_without_videos(tmp_path, monkeypatch):
    write_measurements(tmp_path)
    monkeypatch.setattr(votes_page, "MAX_VIDEO_BYTES", 150)
    with pytest.raises(BadInput, match="use --comparisons=[12]$"):
        write_votes_page(tmp_path)
    for video in (tmp_path / "videos").iterdir():
        video.unlink()
    with pytest.raises(BadInput, match="the saved videos were deleted"):
        write_votes_page(tmp_path)

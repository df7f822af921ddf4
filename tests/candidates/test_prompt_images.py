"""Images beside prompts: from the file to the records of videos."""

import json

import numpy as np
import pytest
from PIL import Image

from pav_jax.candidates.candidate_store import PendingCandidate
from pav_jax.candidates.first_batch_checks import PromptSensitivity
from pav_jax.candidates.pool import CandidatePool
from pav_jax.candidates.prompt_sets import PromptSet, read_prompt_set
from pav_jax.errors import BadInput
from pav_jax.evaluate.measurements import Cell, MeasurementStore, video_requests
from pav_jax.video.generator import Generator
from tests.fakes import FakeGenerator, FakeSuite


class Levels(Generator):
    """Videos as bright as the image, 7 without one; records the calls."""

    fingerprint = "levels"

    def __init__(self):
        self.made = []

    def generate(self, prompts, *, seed, image=None):
        levels = [i.load().getpixel((0, 0))[0] if i else 7 for i in image or [None] * len(prompts)]
        self.made += list(dict.fromkeys(zip(prompts, levels, strict=True)))
        videos = np.ones((len(prompts), 2, 16, 16, 3), np.uint8)
        return videos * np.asarray(levels, np.uint8).reshape(-1, 1, 1, 1, 1)


@pytest.fixture
def file(tmp_path):
    """A file of prompts, of which the first two have images."""
    (tmp_path / "pictures").mkdir()
    for name, level in (("a", 100), ("b", 200)):
        Image.new("RGB", (4, 4), (level,) * 3).save(tmp_path / "pictures" / f"{name}.png")
    rows = [
        {"prompt": "a cat", "image": "pictures/a.png"},
        {"prompt": "a\tdog", "image": str(tmp_path / "pictures" / "b.png")},
        {"prompt": "rain"},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "p.jsonl"


def test_read_prompt_set_images(file):
    prompts = read_prompt_set(str(file))
    assert prompts.prompts == ("a cat", "a dog", "rain")
    cat, dog, rain = prompts.images
    assert cat.path == str(file.parent / "pictures" / "a.png") and rain is None and cat != dog
    assert prompts.image_by_prompt == {"a cat": cat, "a dog": dog, "rain": None}
    assert prompts.first(1).images == (cat,)
    prompts.check_images(Levels())
    for call in (
        lambda: prompts.check_images(FakeGenerator()),
        lambda: prompts.without_images("x"),
    ):
        with pytest.raises(BadInput, match="p.jsonl:1: image: ") as caught:
            call()
        assert (caught.value.source, caught.value.field) == (f"{file}:1", "image")

    class NeedsImage(Levels):
        needs_image = True

    with pytest.raises(BadInput, match="p.jsonl:3: image: NeedsImage needs an image for every"):
        prompts.check_images(NeedsImage())


@pytest.mark.parametrize(
    "image, message",
    [
        ("none.png", "image='none.png': no such file"),
        ("p.jsonl", "image='p.jsonl': not an image"),
        ("pictures", "image='pictures': this is a folder"),
        ("ftp://x/a.png", "ftp:// is no known object store"),
        ("", "`image` must be the path of an image"),
        (3, "`image` must be the path of an image"),
    ],
)
def test_read_prompt_set_invalid_image(file, image, message):
    file.write_text('{"prompt": "a"}\n' + json.dumps({"prompt": "b", "image": image}))
    with pytest.raises(BadInput, match=message) as caught:
        read_prompt_set(str(file))
    if "ftp" not in message:
        assert (caught.value.source, caught.value.field) == (f"{file}:2", "image")
        assert str(caught.value).startswith(f"{file}:2: ") and "\n" not in str(caught.value)


def make_pool(folder, generator, images, **options):
    return CandidatePool(
        generator,
        FakeSuite(),
        folder / "pool",
        folder,
        seed=0,
        batch_size=2,
        images=images,
        **options,
    )


PENDING = [
    PendingCandidate(prompt, f"{prompt}, in detail", 0, 0, (), "local")
    for prompt in ("a cat", "a dog", "rain")
]


def test_pool_images_are_part_of_a_video(tmp_path, file):
    images = read_prompt_set(str(file)).image_by_prompt
    generator = Levels()
    pool = make_pool(tmp_path, generator, images, keep_videos="all")
    assert sum(pool.score_round(PENDING, 0)) == 3
    assert [level for _, level in generator.made] == [100, 200, 7]
    digests = {c.prompt: c.image for c in pool.candidates}
    assert digests == {p: image and image.digest for p, image in images.items()}
    keys = {c.key for c in pool.candidates} | {c.key for c in plain_pool(tmp_path).candidates}
    assert len(keys) == 3 + 2  # "rain" has no image, so its key is the same
    assert len(list((tmp_path / "videos").iterdir())) == 3
    # a restart makes nothing; other images are refused
    again = make_pool(tmp_path, generator, images)
    assert sum(again.score_round(PENDING, 0)) == 3 and len(generator.made) == 3
    for other in (images["a dog"], None):
        with pytest.raises(BadInput, match="videos of 'a cat' that were made from another image"):
            make_pool(tmp_path, generator, images | {"a cat": other})
    with pytest.raises(BadInput, match="videos of 'rain' that were made from no image"):
        make_pool(tmp_path, generator, images | {"rain": images["a cat"]})


def plain_pool(folder, images=None):
    pool = make_pool(folder / "plain" / str(images is None), Levels(), images)
    list(pool.score_round(PENDING, 0))
    return pool


def test_pool_without_images_is_unchanged(tmp_path):
    pools = [plain_pool(tmp_path), plain_pool(tmp_path, {c.prompt: None for c in PENDING})]
    contents = [
        {path.name: path.read_bytes() for path in pool.folder.iterdir() if path.is_file()}
        for pool in pools
    ]
    assert contents[0] == contents[1] and not any(b"image" in data for data in contents[0].values())
    # the key of a video before there were images
    assert pools[0].candidates[0].key == "2ee13990276f49d58cc2a36b98b5c324"


def test_measurements_of_one_prompt_with_several_images(tmp_path, file):
    cat, dog, _ = read_prompt_set(str(file)).images
    cells = [
        Cell("a cat", "a cat", 3, system, image)
        for system in ("original", "sft")
        for image in (cat, dog, None)
    ]
    generator = Levels()
    store = MeasurementStore(generator, FakeSuite(), tmp_path / "c", tmp_path, batch_size=2)
    list(store.score(video_requests(cells)))
    assert [level for _, level in generator.made] == [100, 200, 7]
    records = [store[cell] for cell in cells]
    assert [r.image for r in records[:3]] == [cat.digest, dog.digest, None]
    assert len({r.video for r in records}) == 3 and records[:3] == records[3:]


def test_prompt_sensitivity_compares_videos_of_one_image():
    frames = [np.full((2, 4, 4, 3), level, np.uint8) for level in (1, 2)]
    sensitivity = PromptSensitivity()
    # two images: the videos differ for another reason than the prompt
    sensitivity.add("ab", [(1, "x"), (1, "y")], frames, [None] * 2)
    assert not sensitivity.is_decided
    sensitivity.add("c", [(1, "x")], frames[1:], [None])
    assert sensitivity.is_decided


def test_image_by_prompt_of_cleaned_prompts():
    image = object()
    prompts = PromptSet(("a\x00cat",), (None,), (image,))
    assert prompts.image_by_prompt["a cat"] is image

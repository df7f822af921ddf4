import os
import threading

import pytest
from PIL import Image

from pav_jax.commands.prompts import read_prompts, read_prompts_and_images
from pav_jax.errors import BadInput


def test_read_prompts_from_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("a dog runs\n\na cat\n",))
    writer.start()
    assert read_prompts([str(pipe), "a bird"]) == ["a dog runs", "a cat", "a bird"]
    writer.join()


@pytest.mark.parametrize(
    "path", ["/dev/zero", "/dev/null", "gs://", "mini:prompts/none.txt", "none.txt", "x/none.jsonl"]
)
def test_read_prompts_unusable_file(path):
    with pytest.raises(BadInput) as error:
        read_prompts([path])
    assert "\n" not in str(error.value)


def test_read_prompts_and_images(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "a dog", "image": "a.png"}\n\n{"prompt": "a  cat\\u2028"}\n')
    prompts, images = read_prompts_and_images([str(file), "a bird"])
    assert prompts == ["a dog", "a cat", "a bird"] == read_prompts([str(file), "a bird"])
    assert [image and image.path for image in images] == [str(tmp_path / "a.png"), None, None]
    shared = read_prompts_and_images(["a", "b"], str(tmp_path / "a.png"))[1]
    assert shared == [images[0]] * 2 and read_prompts_and_images(["a"])[1] == [None]
    for values, image, message in (
        ([str(file)], str(tmp_path / "a.png"), "leave out one of the two"),
        (["a"], str(tmp_path / "b.png"), "--image=.*b.png: no such file"),
        (["a"], str(file), "--image=.*p.jsonl: not an image"),
    ):
        with pytest.raises(BadInput, match=message) as error:
            read_prompts_and_images(values, image)
        assert error.value.source == "--image"
    file.write_text('{"prompt": "a dog", "image": "b.png"}')
    with pytest.raises(BadInput, match="p.jsonl:1: image='b.png': no such file"):
        read_prompts([str(file)])

import os
import threading

import pytest

from pav_jax.commands.prompts import read_prompts
from pav_jax.errors import BadInput


def test_read_prompts_from_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("a dog runs\n\na cat\n",))
    writer.start()
    assert read_prompts([str(pipe), "a bird"]) == ["a dog runs", "a cat", "a bird"]
    writer.join()


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "gs://", "mini:prompts/none.txt"])
def test_read_prompts_unusable_file(path):
    with pytest.raises(BadInput) as error:
        read_prompts([path])
    assert "\n" not in str(error.value)

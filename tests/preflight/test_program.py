"""Where the sizes of models come from."""

import pytest

from pav_jax.errors import BadInput
from pav_jax.preflight.program import PUBLISHED, config_folder


def test_config_folder_local(tmp_path):
    assert config_folder(str(tmp_path), "config.rewriter.path") == tmp_path


def test_config_folder_published():
    folder = config_folder("meta-llama/Meta-Llama-3-8B-Instruct", "config.rewriter.path")
    assert folder == PUBLISHED / "Meta-Llama-3-8B-Instruct"


def test_config_folder_unknown():
    with pytest.raises(BadInput, match="Meta-Llama-3-8B") as error:
        config_folder("x/unheard-of", "config.rewriter.path")
    assert error.value.field == "rewriter.path"

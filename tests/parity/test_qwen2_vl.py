"""Our Qwen2-VL with a head against transformers' `Qwen2VLModel` and a torch head: random, tiny,
loaded and saved."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.checkpoints.folder import load, save
from pav_jax.errors import BadInput
from pav_jax.models.qwen2_vl import hf
from pav_jax.models.qwen2_vl.model import Qwen2VL
from pav_jax.models.qwen2_vl.positions import mrope_positions, sequential_positions
from pav_jax.models.qwen2_vl.vision import patchify
from pav_jax.storage.json_files import read_json, write_json
from tests.tiers import first_fast

torch = pytest.importorskip("torch")
tiny = pytest.importorskip("tests.tiny.qwen2_vl")

SEEDS = first_fast(range(5))
SIDES = ("left", "right")


def make_batch(config, seed):
    """Two rows with videos of one size and texts of other lengths, padded on either side."""
    rng = np.random.default_rng(seed)
    vision = config.vision_config
    times = int(rng.integers(1, 4))
    rows, columns = (int(n) for n in rng.integers(3, 6, 2))  # more than `times`
    side = vision.patch_size * vision.spatial_merge_size
    shape = (2, times, vision.temporal_patch_size, rows * side, columns * side, 3)
    frames = rng.normal(size=shape).astype(np.float32)
    words = lambda count: list(rng.integers(5, config.text_config.vocab_size, count))  # noqa: E731
    video = [tiny.VIDEO] * (times * rows * columns)
    texts = [words(3) + video + words(9), words(2) + video + words(4)]
    length = max(map(len, texts))
    padded = {}
    for padding_side in SIDES:
        ids = np.zeros((2, length), np.int64)
        mask = np.zeros((2, length), bool)
        for i, text in enumerate(texts):
            start = length - len(text) if padding_side == "left" else 0
            ids[i, start : start + len(text)] = text
            mask[i] = ids[i] > 0
        # the last real token and one in the middle of the text after the frames
        last = np.array([np.flatnonzero(row)[-1] for row in mask])
        padded[padding_side] = ids, mask, np.stack([last, last - 2], axis=1)
    return padded, frames, (times, rows, columns)


def run_torch(model, padded, frames, grid, positions=None):
    """Scores and hidden vectors for each side of the padding."""
    vision = model.config.vision_config
    merge = vision.spatial_merge_size
    # transformers' order of a patch's pixels has colours first
    pixels = np.asarray(
        patchify(jnp.asarray(frames.reshape(-1, *frames.shape[2:])), vision.patch_size, merge)
    ).reshape(-1, vision.temporal_patch_size, vision.patch_size, vision.patch_size, 3)
    pixels = pixels.transpose(0, 4, 1, 2, 3).reshape(len(pixels), -1)
    times, rows, columns = grid
    patches = [times, rows * merge, columns * merge]
    outputs = {}
    with torch.no_grad():
        for side, (ids, mask, read_at) in padded.items():
            scores, hidden = model(
                torch.from_numpy(read_at),
                input_ids=torch.from_numpy(ids),
                attention_mask=torch.from_numpy(mask).long(),
                mm_token_type_ids=torch.from_numpy(2 * (ids == tiny.VIDEO)).int(),
                pixel_values_videos=torch.from_numpy(pixels),
                video_grid_thw=torch.tensor([patches] * 2),
                position_ids=None
                if positions is None
                else torch.from_numpy(positions[side].transpose(2, 0, 1).astype(np.int64)),
            )
            outputs[side] = scores.numpy(), hidden.numpy()
    return outputs


def our_positions(padded, grid):
    """M-RoPE positions of rows with padding."""
    result = {}
    for side, (ids, mask, _) in padded.items():
        positions = np.zeros((*ids.shape, 3), np.int32)
        for i, row in enumerate(ids):
            positions[i, mask[i]] = mrope_positions(row[mask[i]] == tiny.VIDEO, [grid])
        result[side] = positions
    return result


def close(ours, theirs, tolerance=1e-4):
    ours = np.asarray(ours)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


@pytest.fixture(scope="module", params=SEEDS)
def pair(request, tmp_path_factory):
    seed = request.param
    hidden = (5, 3) if seed % 2 else ()
    theirs = tiny.make_judge(tiny.random_config(seed), seed, 1 + seed % 3, hidden)
    folder = tmp_path_factory.mktemp("qwen2_vl")
    theirs.save_pretrained(folder)
    config, params = load(hf, folder)
    return theirs, config, params, make_batch(theirs.config, seed), folder


def test_qwen2_vl_equals_transformers(pair):
    theirs, config, params, (padded, frames, grid), _ = pair
    model = Qwen2VL(config)

    @jax.jit
    def everything(params, ids, mask, positions, frames, read_at):
        call = lambda *args, method=None: model.apply({"params": params}, *args, method=method)  # noqa: E731
        vectors = call(frames.reshape(-1, *frames.shape[2:]), method="encode_frames")
        hidden = call(
            ids, mask, positions, vectors.reshape(2, -1, vectors.shape[-1]), method="hidden"
        )
        return call(ids, mask, positions, frames, read_at), hidden

    ours = our_positions(padded, grid)
    length = padded["right"][0].shape[1]
    in_sequence = {"right": sequential_positions(2, length)}
    cases = [
        (ours, run_torch(theirs, padded, frames, grid), SIDES),  # positions are transformers' own
        (
            in_sequence,
            run_torch(theirs, {"right": padded["right"]}, frames, grid, in_sequence),
            ["right"],
        ),
    ]
    results = []
    for positions, expected, sides in cases:
        for side in sides:
            ids, mask, read_at = padded[side]
            scores, hidden = everything(params, ids, mask, positions[side], frames, read_at)
            close(scores, expected[side][0])
            close(np.asarray(hidden)[mask], expected[side][1][mask])
            results.append(np.asarray(scores))
    close(results[0], results[1])  # padding has no part in a score
    assert np.abs(results[2] - results[1]).max() > 1e-3 * np.abs(results[1]).max()


def test_save_loads_in_transformers(pair, tmp_path):
    theirs, config, params, *_ = pair
    save(hf, tmp_path, config, params)
    again, info = tiny.qwen2_vl.Qwen2VLForConditionalGeneration.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["mismatched_keys"]
    assert {name.split(".")[0] for name in info["unexpected_keys"]} == {"rm_head"}
    expected = theirs.model.state_dict()
    assert again.model.state_dict().keys() == expected.keys()
    for name, tensor in again.model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), expected[name].numpy(), name)


def test_config_from_hf_both_versions(pair):
    theirs, config, _, _, folder = pair
    assert hf.config_from_hf(hf.config_to_hf(config)) == hf.config_from_hf(
        read_json(folder / "config.json")
    )


def test_mrope_positions_rules():
    # text, a video of 4 times that is only 2 x 1 large, text: time is the largest position
    positions = mrope_positions([False, *[True] * 8, False], [(4, 2, 1)])
    assert positions[:, 0].tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5]
    assert positions[:, 1].tolist() == [0, 1, 2, 1, 2, 1, 2, 1, 2, 5]
    assert positions[:, 2].tolist() == [0, 1, 1, 1, 1, 1, 1, 1, 1, 5]
    with pytest.raises(ValueError, match="1 vision tokens for 8"):
        mrope_positions([False, True], [(4, 2, 1)])


@pytest.mark.parametrize(
    "change, named",
    [
        ({"model_type": "qwen2_5_vl"}, "model_type"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 1]}}, "mrope_section"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [1, 1]}}, "mrope_section"),
        ({"rope_scaling": {"type": "dynamic"}}, "rope_type"),
        ({"vision_config": {"hidden_size": 8}}, "vision_config.hidden_size"),
        ({"vision_config": {"hidden_act": "tanh"}}, "vision_config.hidden_act"),
    ],
)
def test_config_from_hf_unsupported(change, named):
    fields = hf.config_to_hf(hf.config_from_hf(tiny.random_config(0).to_dict()))
    with pytest.raises(BadInput) as error:
        hf.config_from_hf(fields | change)
    assert "\n" not in str(error.value) and named in str(error.value)


def test_load_without_head(pair, tmp_path):
    theirs, *_ = pair
    theirs.model.save_pretrained(tmp_path)
    write_json(tmp_path / "config.json", theirs.config.to_dict())
    with pytest.raises(BadInput, match="rm_head or score"):
        load(hf, tmp_path)

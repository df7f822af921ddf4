import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.errors import BadInput
from pav_jax.models.i3d import I3D, I3DConfig
from pav_jax.models.i3d.names import param_shapes
from pav_jax.rewards.i3d_features import I3DFeatures, resize_bilinear


def tiny() -> I3DFeatures:
    block = (2, 2, 3, 2, 2, 3)
    model = I3D(I3DConfig((4, 4, 4), ((block,),) * 3, 5, (2, 1, 1)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda s: rng.uniform(0.1, 0.5, s.shape).astype(np.float32), param_shapes(model.config)
    )
    return I3DFeatures(model, params)


def test_features_in_any_batch():
    network = tiny()
    videos = np.random.default_rng(0).integers(0, 256, (3, 9, 20, 24, 3), np.uint8)
    features = network.features(videos)
    assert (
        features.shape == (3, 5)
        and np.isfinite(features).all()
        and np.ptp(features, axis=0).max() > 1e-4
    )
    np.testing.assert_array_equal(network.features(videos[1:2])[0], features[1])
    frames = jnp.asarray(videos[1], jnp.float32)
    x = np.asarray(resize_bilinear(frames, 32, 32)) / 127.5 - 1
    np.testing.assert_allclose(
        jax.jit(network.model.apply)({"params": network._params}, x[None])[0],
        features[1],
        rtol=1e-3,
    )
    with pytest.raises(BadInput, match="8 frames: FVD's network needs at least 9"):
        network.features(videos[:, :8])


@pytest.mark.parametrize("size, target", [((5, 7), (8, 4)), ((64, 6), (224, 6))])
def test_resize_bilinear_as_tensorflow_1(size, target):
    x = np.random.default_rng(1).uniform(0, 255, (1, *size, 1)).repeat(3, -1).astype(np.float32)
    ours = resize_bilinear(jnp.asarray(x), *target)
    for i in range(target[0]):
        for j in range(target[1]):
            y = i * size[0] / target[0]
            z = j * size[1] / target[1]
            a = int(y)
            b = int(z)
            fy = y % 1
            fz = z % 1
            c = min(a + 1, size[0] - 1)
            d = min(b + 1, size[1] - 1)
            top = x[0, a, b, 0] * (1 - fz) + x[0, a, d, 0] * fz
            low = x[0, c, b, 0] * (1 - fz) + x[0, c, d, 0] * fz
            assert ours[0, i, j, 0] == pytest.approx(top * (1 - fy) + low * fy, abs=1e-2)

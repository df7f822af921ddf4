"""The ground truth of the mini world's aesthetic score: a formula of pixels, which the aesthetic
head is trained to predict from embeddings.

As people do, it prefers good exposure, contrast, colour and detail, and penalizes noise. It reads
single frames, never text.
"""

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
# Immerkaer, "Fast noise variance estimation" (1996): its response to smooth image structure is
# zero.
NOISE_MASK = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)

# feature: (mean, standard deviation over 2,000 random renders, weight of the standardised value).
FEATURES = {
    "exposure": (0.33, 0.14, 0.45),
    "contrast": (0.083, 0.038, 0.35),
    "colourfulness": (0.134, 0.074, 0.25),
    "detail": (0.030, 0.045, 0.35),
    "noise": (0.036, 0.028, -0.45),
}


def features(frames: UInt8[np.ndarray, "N H W 3"]) -> dict[str, Float[np.ndarray, "N"]]:
    """Computes the features of frames, on the 0..1 scale.

    Returns:
      exposure: mean luminance. contrast: its standard deviation. colourfulness: of Hasler and
      Suesstrunk (2003). detail: 95th percentile of the luminance slope minus the contribution of
      noise. noise: Immerkaer's noise deviation, with the median instead of the mean.
    """
    rgb = frames.astype(np.float32) / 255
    luma = rgb @ LUMA
    red_green = rgb[..., 0] - rgb[..., 1]
    yellow_blue = 0.5 * (rgb[..., 0] + rgb[..., 1]) - rgb[..., 2]
    axes = (1, 2)
    colour = np.hypot(red_green.std(axes), yellow_blue.std(axes)) + 0.3 * np.hypot(
        red_green.mean(axes), yellow_blue.mean(axes)
    )
    # Grain is two pixels coarse, so that noise is measured at half size. The median ignores edges,
    # which are rare.
    half = luma.reshape(len(luma), luma.shape[1] // 2, 2, luma.shape[2] // 2, 2).mean((2, 4))
    response = ndimage.convolve(half, NOISE_MASK[None], mode="nearest")[:, 1:-1, 1:-1]
    noise = np.median(np.abs(response), axis=axes) / (6 * 0.6745)
    slope = np.hypot(np.diff(luma, axis=1)[:, :, :-1], np.diff(luma, axis=2)[:, :-1])
    return {
        "exposure": luma.mean(axes),
        "contrast": luma.std(axes),
        "colourfulness": colour,
        "detail": np.maximum(np.percentile(slope, 95, axis=axes) - 4 * noise, 0),
        "noise": noise,
    }


def aesthetic(videos: UInt8[np.ndarray, "B T H W 3"]) -> Float[np.ndarray, "B"]:
    """The aesthetic score of videos, about 3 to 8: 5.5 plus the weighted standardised features,
    mean over four evenly spaced frames."""
    B, T = videos.shape[:2]
    shown = videos[:, np.arange(0, T, T / 4).astype(int)]
    values = features(shown.reshape(-1, *videos.shape[2:]))
    standardised = {
        name: np.clip((values[name] - mean) / deviation, -3, 3)
        for name, (mean, deviation, _) in FEATURES.items()
    }
    weighted = [weight * standardised[name] for name, (_, _, weight) in FEATURES.items()]
    score = 5.5 + np.asarray(sum(weighted))
    return score.reshape(B, 4).mean(1)

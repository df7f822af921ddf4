"""Open-Sora 1.2 said again in plain torch, as functions of {published tensor name: tensor}, one
sample at a time.

Written from the published code's arithmetic (hpcaitech/Open-Sora, tag v1.2.0), without its classes,
so that both its numbers and its names are tested. Layouts are the original's: [B, C, T, H, W].
"""

import math

import torch
import torch.nn.functional as F


def linear(w, name, x):
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


# ------------------------------------------------------------------------------------------- STDiT3


def waves(t, channels=256):
    """[] -> [channels]: the cosines, then the sines."""
    angles = t * torch.exp(-math.log(10000) * torch.arange(channels // 2) / (channels // 2))
    return torch.cat([angles.cos(), angles.sin()])


def embed(w, name, t):
    return linear(w, f"{name}.mlp.2", F.silu(linear(w, f"{name}.mlp.0", waves(t))))


def positions(grid, size, width, input_sq_size):
    """[h * w, width]: of the column in the first half, of the row in the second."""
    h, w = grid
    base = round((h * w) ** 0.5)
    scale = (size[0] * size[1]) ** 0.5 / input_sq_size
    frequencies = 10000 ** -(torch.arange(0, width // 2, 2) / (width // 2))
    table = []
    for row in range(h):
        for column in range(w):
            angles = [
                frequencies * (n / scale * base / count) for n, count in ((column, w), (row, h))
            ]
            table.append(torch.cat([part for a in angles for part in (a.sin(), a.cos())]))
    return torch.stack(table)


def rotated(x, frequencies):
    """x [N, T, K], neighbouring pairs turned by position times frequency."""
    angles = torch.arange(x.shape[1])[:, None] * frequencies
    z = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) * torch.polar(
        torch.ones_like(angles), angles
    )
    return torch.view_as_real(z).reshape(x.shape)


def attend(q, k, v):
    return torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1) @ v


def self_attention(w, name, x, heads, rotary=None):
    """x [T, D] of one frame or one place."""
    q, k, v = linear(w, f"{name}.qkv", x).reshape(len(x), 3, heads, -1).permute(1, 2, 0, 3)
    if f"{name}.q_norm.weight" in w:
        q, k = (
            z / (z.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w[f"{name}.{n}_norm.weight"]
            for z, n in ((q, "q"), (k, "k"))
        )
    if rotary is not None:
        q = rotated(q, rotary)
        k = rotated(k, rotary)
    return linear(w, f"{name}.proj", attend(q, k, v).transpose(0, 1).reshape(len(x), -1))


def cross_attention(w, name, x, text, heads):
    q = linear(w, f"{name}.q_linear", x).reshape(len(x), heads, -1).transpose(0, 1)
    k, v = linear(w, f"{name}.kv_linear", text).reshape(len(text), 2, heads, -1).permute(1, 2, 0, 3)
    return linear(w, f"{name}.proj", attend(q, k, v).transpose(0, 1).reshape(len(x), -1))


def block(w, name, x, text, modulation, heads, rotary):
    """x [T, S, D]. Spatial where `rotary` is None, else temporal."""
    shift, scale, gate, shift2, scale2, gate2 = w[f"{name}.scale_shift_table"] + modulation.reshape(
        6, -1
    )
    norm = lambda x: F.layer_norm(x, x.shape[-1:], eps=1e-6)  # noqa: E731
    h = norm(x) * (1 + scale) + shift
    if rotary is None:
        h = torch.stack([self_attention(w, f"{name}.attn", frame, heads) for frame in h])
    else:
        places = [
            self_attention(w, f"{name}.attn", h[:, s], heads, rotary) for s in range(h.shape[1])
        ]
        h = torch.stack(places, dim=1)
    x = x + gate * h
    x = x + cross_attention(w, f"{name}.cross_attn", x.flatten(0, 1), text, heads).reshape(x.shape)
    h = linear(w, f"{name}.mlp.fc1", norm(x) * (1 + scale2) + shift2)
    return x + gate2 * linear(w, f"{name}.mlp.fc2", F.gelu(h, approximate="tanh"))


def stdit(w, config, latent, t, text, tokens, size, fps):
    """latent [C, T, H, W], text [M, U] of which the first `tokens` count -> [out, T, H, W]."""
    pt, ph, pw = config["patch_size"]
    channels, *shape = latent.shape
    padding = [-length % patch for length, patch in zip(shape, (pt, ph, pw), strict=True)]
    x = F.pad(latent, (0, padding[2], 0, padding[1], 0, padding[0]))
    x = F.conv3d(
        x[None], w["x_embedder.proj.weight"], w["x_embedder.proj.bias"], stride=(pt, ph, pw)
    )[0]
    frames, *grid = x.shape[1:]
    x = x.permute(1, 2, 3, 0).flatten(1, 2)
    x = x + positions(grid, size, x.shape[-1], config["input_sq_size"])
    time = embed(w, "t_embedder", t) + embed(w, "fps_embedder", fps)
    modulation = linear(w, "t_block.1", F.silu(time))
    text = F.gelu(linear(w, "y_embedder.y_proj.fc1", text[:tokens]), approximate="tanh")
    text = linear(w, "y_embedder.y_proj.fc2", text)
    for i in range(config["depth"]):
        for kind, rotary in (("spatial", None), ("temporal", w["rope.freqs"])):
            x = block(w, f"{kind}_blocks.{i}", x, text, modulation, config["num_heads"], rotary)
    shift, scale = w["final_layer.scale_shift_table"] + time
    x = linear(
        w, "final_layer.linear", F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
    )
    x = x.reshape(frames, *grid, pt, ph, pw, -1).permute(6, 0, 3, 1, 4, 2, 5)
    x = x.reshape(-1, frames * pt, grid[0] * ph, grid[1] * pw)
    return x[:, : shape[0], : shape[1], : shape[2]]


# ------------------------------------------------------------------------------------- temporal VAE


def conv(w, name, x, stride=1):
    """A causal convolution of [B, C, T, H, W]: zeros before the first frame and around the
    picture."""
    kernel = w[f"{name}.conv.weight"]
    k = kernel.shape[2]
    side = kernel.shape[3] // 2
    x = F.pad(x, (side, side, side, side, k - stride, 0))
    return F.conv3d(x, kernel, w.get(f"{name}.conv.bias"), stride=(stride, 1, 1))


def residual(w, name, x, groups):
    h = conv(w, f"{name}.conv1", F.silu(norm(w, f"{name}.norm1", x, groups)))
    h = conv(w, f"{name}.conv2", F.silu(norm(w, f"{name}.norm2", h, groups)))
    return h + (conv(w, f"{name}.conv3", x) if f"{name}.conv3.conv.weight" in w else x)


def norm(w, name, x, groups):
    return F.group_norm(x, groups, w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-5)


def encode_time(w, config, x):
    """[B, C, T, H, W] -> mean of the latent."""
    p = "temporal_vae.encoder"
    groups = config["num_groups"]
    levels = len(config["channel_multipliers"])
    x = F.pad(x, (0, 0, 0, 0, -x.shape[2] % 2 ** sum(config["temporal_downsample"]), 0))
    x = conv(w, f"{p}.conv_in", x)
    for i in range(levels):
        for j in range(config["num_res_blocks"]):
            x = residual(w, f"{p}.block_res_blocks.{i}.{j}", x, groups)
        if i < levels - 1 and config["temporal_downsample"][i]:
            x = conv(w, f"{p}.conv_blocks.{i}", x, stride=2)
    for j in range(config["num_res_blocks"]):
        x = residual(w, f"{p}.res_blocks.{j}", x, groups)
    x = conv(w, f"{p}.conv2", F.silu(norm(w, f"{p}.norm1", x, groups)))
    return conv(w, "temporal_vae.quant_conv", x).chunk(2, dim=1)[0]


def decode_time(w, config, z, frames):
    p = "temporal_vae.decoder"
    groups = config["num_groups"]
    levels = len(config["channel_multipliers"])
    x = conv(w, f"{p}.conv1", conv(w, "temporal_vae.post_quant_conv", z))
    for j in range(config["num_res_blocks"]):
        x = residual(w, f"{p}.res_blocks.{j}", x, groups)
    for i in reversed(range(levels)):
        for j in range(config["num_res_blocks"]):
            x = residual(w, f"{p}.block_res_blocks.{i}.{j}", x, groups)
        if i and config["temporal_downsample"][i - 1]:
            x = conv(w, f"{p}.conv_blocks.{i - 1}", x)
            x = torch.stack([x[:, 0::2], x[:, 1::2]], dim=3).flatten(
                2, 3
            )  # channels 2c and 2c + 1 are two frames
    x = conv(w, f"{p}.conv_out", F.silu(norm(w, f"{p}.norm1", x, groups)))
    return x[:, :, -frames % 2 ** sum(config["temporal_downsample"]) :]


# ------------------------------------------------------------------------------------ whole decoder


def encode(w, config, spatial, video, micro=17):
    """Mean latents; `spatial` is a diffusers AutoencoderKL."""
    x = (
        torch.cat(
            [spatial.encode(frame).latent_dist.mean[:, :, None] for frame in video.unbind(2)], dim=2
        )
        * 0.18215
    )
    z = torch.cat([encode_time(w, config, part) for part in x.split(micro, dim=2)], dim=2)
    return (z - w["shift"]) / w["scale"]


def decode(w, config, spatial, z, frames, micro=17):
    z = z * w["scale"] + w["shift"]
    step = -(-micro // 2 ** sum(config["temporal_downsample"]))
    lengths = [min(micro, frames - start) for start in range(0, frames, micro)]
    parts = [
        decode_time(w, config, *clip) for clip in zip(z.split(step, dim=2), lengths, strict=True)
    ]
    x = torch.cat(parts, dim=2) / 0.18215
    return torch.stack([spatial.decode(frame).sample for frame in x.unbind(2)], dim=2)


# ----------------------------------------------------------------------------------------- sampling


def sample(w, config, noise, text, tokens, size, frames, fps, steps, guidance, null=None):
    """noise [C, T, H, W] -> clean latent. `null`: a text and its tokens that guidance moves away
    from; default: the learned null caption, as many tokens of it as the caption has."""
    null, null_tokens = (w["y_embedder.y_embedding"], tokens) if null is None else null
    ratio = (size[0] * size[1] / 512**2) ** 0.5 * (1 if frames == 1 else frames // 17 * 5) ** 0.5
    times = [1 - i / steps for i in range(steps)]
    times = [ratio * t / (1 + (ratio - 1) * t) for t in times]
    x = noise
    for t, after in zip(times, [*times[1:], 0.0], strict=True):
        conditions = (size, torch.tensor(fps))
        time = torch.tensor(1000 * t)
        positive = stdit(w, config, x, time, text, tokens, *conditions).chunk(2)[0]
        negative = stdit(w, config, x, time, null, null_tokens, *conditions).chunk(2)[0]
        x = x + (t - after) * (negative + guidance * (positive - negative))
    return x

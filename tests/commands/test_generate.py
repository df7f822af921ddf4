import types

from PIL import Image

import pav_jax
from pav_jax.commands import generate
from tests.commands.run_pav import fails, run


def test_generate_formats(tmp_path, capsys, fake_calls):
    for kind in ("mp4", "gif", "frames"):
        status, out, err = run(
            capsys,
            "generate",
            "A red ball!",
            "../../etc!",
            f"--out={tmp_path / kind}",
            "--num-inference-steps=3",
            f"--format={kind}",
            "--seed=9",
            "--batch-size=2",
        )
        assert status == 0 and "embedded generator" in err
        paths = sorted((tmp_path / kind).iterdir())
        assert out.splitlines() == [str(p) for p in paths] and len(paths) == 2
        assert paths[0].name.startswith("000-a-red-ball-9") and paths[1].name.startswith(
            "001-etc-9"
        )
    assert fake_calls[0] == ("load", "mini:generator", "float32", 2)
    assert (
        fake_calls[1][2]["num_inference_steps"] == 3
        and fake_calls[1][2]["seed"] == 9
        and fake_calls[1][2]["guidance_scale"] is None
    )


def test_generate_image(tmp_path, capsys, fake_calls):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    line = ["generate", "a cat", f"--image={tmp_path / 'a.png'}", f"--out={tmp_path / 'out'}"]
    status, out, err = run(capsys, *line, "--model=m")
    assert (status, out) == (2, "") and "image: Backend makes videos from texts alone" in err
    assert [call[0] for call in fake_calls] == ["load"]  # no video was made


def test_generate_failed_video(tmp_path, capsys):
    status, out, err = run(
        capsys,
        "generate",
        "a cat",
        "impossible",
        "a dog",
        f"--out={tmp_path}",
        "--model=m",
        "--batch-size=2",
    )
    assert status == 2 and err == "pav generate: 'impossible': no video: HTTP status 500\n"
    assert [line.rpartition("/")[2] for line in out.splitlines()] == [
        "000-a-cat-0.mp4",
        "002-a-dog-0.mp4",
    ]


def test_generate_backend_options(tmp_path, capsys, fake_calls):
    line = ["generate", "a cat", f"--out={tmp_path}", "--model=http://h/x"]
    assert (
        run(capsys, *line, "--option=model=wan", "--option=eta=0.5", "--option=clean=False")[0] == 0
    )
    assert fake_calls[0] == (
        "load",
        "http://h/x",
        "bfloat16",
        1,
        {"options": {"model": "wan", "eta": 0.5, "clean": False}},
    )
    assert "--option=eta: write NAME=VALUE" in fails(capsys, *line, "--option=eta")


def test_generate_vae_tiling(tmp_path, capsys, fake_calls):
    from pav_jax.video.files import read_metadata

    assert run(capsys, "generate", "a cat", f"--out={tmp_path}", "--model=m")[0] == 0
    assert fake_calls[0] == ("load", "m", "bfloat16", 1) and "vae_tiling" not in read_metadata(
        tmp_path / "000-a-cat-0.mp4"
    )
    fake_calls.clear()
    assert (
        run(capsys, "generate", "a cat", f"--out={tmp_path}", "--model=m", "--vae-tiling")[0] == 0
    )
    assert fake_calls[0] == ("load", "m", "bfloat16", 1, {"vae_tiling": True})
    assert read_metadata(tmp_path / "000-a-cat-0.mp4")["vae_tiling"] == "True"


def test_generate_faster_sampling(tmp_path, capsys, fake_calls):
    from pav_jax.video.files import read_metadata

    line = [
        "generate",
        "a cat",
        f"--out={tmp_path}",
        "--model=m",
        "--scheduler=CogVideoXDPMScheduler",
    ]
    assert (
        run(
            capsys,
            *line,
            "--guidance-start=0",
            "--guidance-stop=0.7",
            "--cache-threshold=0.3",
            "--cache-max-skips=2",
            "--cache-retention=0.1",
        )[0]
        == 0
    )
    options = {
        "scheduler": "CogVideoXDPMScheduler",
        "guidance_start": 0.0,
        "guidance_stop": 0.7,
        "cache_threshold": 0.3,
        "cache_max_skips": 2,
        "cache_retention": 0.1,
    }
    assert fake_calls[0] == ("load", "m", "bfloat16", 1, options)
    said = read_metadata(tmp_path / "000-a-cat-0.mp4")
    assert {name: said[name] for name in options} == {
        name: str(value) for name, value in options.items()
    }


def test_generate_image_metadata(tmp_path, capsys):
    from pav_jax.video.files import read_metadata

    for kind, name in (
        ("", "000-a-picture-3.png"),
        ("--format=gif", "000-a-picture-3.gif"),
        ("--format=mp4", "000-a-picture-3.mp4"),
        ("--format=frames", "000-a-picture-3/0000.png"),
    ):
        assert (
            run(
                capsys,
                "generate",
                "a picture",
                f"--out={tmp_path}",
                "--seed=3",
                "--num-inference-steps=9",
                "--negative-prompt=dark",
                *kind.split(),
            )[0]
            == 0
        )
        assert (
            read_metadata(tmp_path / name).items()
            >= {
                "prompt": "a picture",
                "negative_prompt": "dark",
                "seed": "3",
                "num_inference_steps": "9",
                "model": "mini:generator",
                "fingerprint": "0123",
                "version": f"pav_jax {pav_jax.__version__}",
            }.items()
        )
    assert (
        "a png holds one frame"
        in run(capsys, "generate", "a cat", "--format=png", f"--out={tmp_path}")[2]
    )


def test_generate_metadata_without_undecodable_bytes(tmp_path, capsys):
    from pav_jax.video.files import read_metadata

    for kind in ("mp4", "gif", "png"):
        line = ["generate", "a picture", "--negative-prompt=dark\udcff", f"--format={kind}"]
        assert run(capsys, *line, f"--out={tmp_path}")[0] == 0
        said = read_metadata(tmp_path / f"000-a-picture-0.{kind}")
        assert said["negative_prompt"] == "dark?"


def test_generate_progress_bar(tmp_path, capsys, monkeypatch):
    assert "time left" not in run(capsys, "generate", "a cat", f"--out={tmp_path}")[2]
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes the stream for a terminal
    monkeypatch.setenv("COLUMNS", "120")
    status, out, err = run(capsys, "generate", "a cat", "a dog", f"--out={tmp_path}")
    assert status == 0 and "time left" in err and "2/2" in err
    assert out.splitlines() == [
        str(p) for p in sorted(tmp_path.glob("*.mp4"))
    ]  # a pipe still gets its paths


def test_generate_impossible_out(tmp_path, capsys, fake_calls):
    (tmp_path / "file").write_text("text")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "000-a-cat-0").write_text("text")
    (tmp_path / "taken" / "000-a-cat-0.mp4").mkdir(parents=True)
    for out, message in (
        ("file", "is a file"),
        ("file/a", "is a file"),
        ("file/\udcff", "is a file"),
        ("dangling", "link to nothing"),
        ("x" * 300, "File name too long"),
        ("taken", "this is a folder"),
    ):
        assert message in fails(capsys, "generate", "a cat", "--model=m", f"--out={tmp_path}/{out}")
    line = fails(capsys, "generate", "a cat", "--model=m", f"--out={tmp_path}", "--format=frames")
    assert "is a file, where the folder of frames would be" in line
    assert fake_calls == []  # nothing was loaded


def test_warn_of_frames(capsys):
    class Generator:
        family = types.SimpleNamespace(trained_frames=lambda: 49)

    for num_frames in (None, 49):
        generate._warn_of_frames(Generator, num_frames)
    generate._warn_of_frames(object(), 17)
    assert capsys.readouterr().err == ""
    generate._warn_of_frames(Generator, 17)
    assert "--num-frames=17: this model was trained on 49 frames" in capsys.readouterr().err

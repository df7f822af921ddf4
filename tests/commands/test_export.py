from tests.commands.run_pav import fails, run


def test_export_generator_of_a_format_without_card(tmp_path, capsys):
    out = f"--out={tmp_path}/x"
    assert "--generator" in fails(capsys, "export", "--from=m", "--to=gguf", out, "--generator=wan")


def test_export_existing_output(tmp_path, capsys, fake_calls):
    out = tmp_path / "new"
    assert run(capsys, "export", "--from=m", "--to=hf", f"--out={out}")[:2] == (0, f"{out}\n")
    assert fake_calls == [("load", "m", "bfloat16", None), ("save", out, "5GB")]
    (tmp_path / "something").write_text("")
    assert "already exists" in fails(capsys, "export", "--from=m", f"--out={tmp_path}")

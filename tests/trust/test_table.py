from pav_jax.trust.table import print_table, table_rows
from pav_jax.trust.trust import trust
from tests.trust.fakes import PROMPTS, PatternGenerator, make_suite
from tests.trust.test_trust import make_config


def test_print_table(tmp_path, capsys):
    result = trust(make_config(), PROMPTS, PatternGenerator(), make_suite(), tmp_path)
    rows = table_rows(result)
    assert [row[0] for row in rows[1:]] == ["AES", "VQ", "TVA", "MPS"]
    assert len({len(row) for row in rows}) == 1
    print_table(result)
    text = capsys.readouterr().out
    assert "insensitive to the prompt" in text
    assert len(text.splitlines()) < 24

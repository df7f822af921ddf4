from pav_jax.rewards.suite import RewardSuite
from pav_jax.trust.table import alignment_rows, print_table, table_rows
from pav_jax.trust.trust import trust
from tests.trust.fakes import (
    PROMPTS,
    FunctionReward,
    PatternGenerator,
    make_suite,
    prompt_overlap,
    random_scores,
    similarity,
)
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
    assert "judge of alignment" not in text  # there is one


def test_print_table_alignment_judges(tmp_path, capsys):
    suite = RewardSuite(
        [FunctionReward("TVA", random_scores), FunctionReward("AES", similarity)],
        {"AES": 1.0},
        held_out=[FunctionReward("TVA", similarity), FunctionReward("VR_TA", prompt_overlap)],
    )
    result = trust(make_config(), PROMPTS, PatternGenerator(), suite, tmp_path)
    rows = alignment_rows(result)[1:]
    # the one that prefers true prompts comes first; the one that does not read them is last in AUC
    assert [row[0] for row in rows][0] == "held_out:VR_TA"
    assert {row[0] for row in rows[1:]} == {"TVA", "held_out:TVA"}
    by_name = {row[0]: row for row in rows}
    assert by_name["held_out:VR_TA"][1:4] == ("100% (100%, 100%)", "1.00", "-1.00")
    assert by_name["held_out:TVA"][1:3] == ("50% (50%, 50%)", "0.50")
    assert by_name["held_out:TVA"][-1] == "insensitive to the prompt"
    print_table(result)
    assert "judge of alignment" in capsys.readouterr().out

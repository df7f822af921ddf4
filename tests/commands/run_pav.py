"""Run `pav` in the test process."""

from pav_jax.main import main


def run(capsys, *argv):
    """-> (status, standard output, standard error)"""
    status = main(argv)
    out = capsys.readouterr()
    return status, out.out, out.err


def fails(capsys, *argv):
    """The one line on standard error of a command that must refuse."""
    status, out, err = run(capsys, *argv)
    assert status == 2 and out == ""
    assert err.count("\n") == 1 and "Traceback" not in err
    return err

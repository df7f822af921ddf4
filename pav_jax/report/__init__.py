"""The report: one HTML page per work directory; the page for blind human votes, and the votes."""

from pav_jax.report.page import write_report
from pav_jax.report.votes import write_votes
from pav_jax.report.votes_page import write_votes_page

__all__ = ["write_report", "write_votes", "write_votes_page"]

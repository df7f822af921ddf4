"""The report: one HTML page per work directory."""

from pav_jax.report.page import write_report

__all__ = ["write_report"]

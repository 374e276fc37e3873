"""A run's ``report.html``: one file with scores, charts, answers and panoramas to look around in, without a network."""

from cora.evaluation.report.page import ReportOptions, write_report

__all__ = ["ReportOptions", "write_report"]

"""A dataset becomes a page and a card that people read."""

from data_pipeline.report.write import write_calibration, write_report

__all__ = ["write_calibration", "write_report"]

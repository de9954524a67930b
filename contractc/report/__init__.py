"""Pages: what a plan does, as one HTML file that needs nothing else."""

from contractc.report.plan import plan_page, report

__all__ = ["plan_page", "report"]
